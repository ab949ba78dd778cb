//! Tables that cannot be read.

use super::Quick;
use crate::causes::in_one_line;
use crate::fsck::Finding;
use crate::fsck::code::Code;
use crate::fsck::finding::Repair;
use crate::fsck::fix::Fix;
use crate::layout::TablesError;
use crate::metadata::LoadError;

impl Quick<'_> {
    pub(super) fn tables(&mut self) {
        let survey = self.survey;
        if let Err(error) = &survey.layers {
            let missing = matches!(error, LoadError::Lost { state: "is missing", .. });
            let code = if missing { Code::LayersTableMissing } else { Code::LayersTableUnreadable };
            self.push(lost(code, "overlay-layers/layers.json", "rebuild it from the layers on disk", error));
        }
        if let Err(error) = &survey.images {
            let missing = matches!(error, LoadError::Lost { state: "is missing", .. });
            let code = if missing { Code::ImagesTableMissing } else { Code::ImagesTableUnreadable };
            self.push(lost(code, "overlay-images/images.json", "rebuild it from the documents on disk and the history of names", error));
        }
        if let Err(error) = &survey.others {
            let path = match error {
                TablesError::Load(LoadError::Read { path, .. } | LoadError::Damaged { path, .. } | LoadError::Lost { path, .. }) => {
                    Some(path.display().to_string())
                }
                _ => None,
            };
            let mut finding = Finding::report(Code::ContainersTableUnreadable, "remove the containers with podman, or restore the table")
                .seen(in_one_line(error));
            finding.path = path;
            self.push(finding);
        }
        for (store, why) in &survey.elsewhere.broken {
            self.push(
                Finding::report(Code::AdditionalStoreBroken, "mend that store, or take it out of storage.conf")
                    .at(store.display().to_string())
                    .seen(why.clone()),
            );
        }
    }
}

fn lost(code: Code, path: &str, action: &str, error: &LoadError) -> Finding {
    Finding::new(code, Repair::Offline, Fix::Tables, action).at(path).seen(in_one_line(error))
}
