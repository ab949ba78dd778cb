//! `cstor-rs tag`, `cstor-rs untag`

use std::process::ExitCode;

use super::Context;
use super::change::{existing, image_ref, new_name, transact};

/// Give an image more names
#[derive(clap::Args)]
pub(crate) struct TagArgs {
    /// The image
    #[arg(value_name = "SRC")]
    image: String,
    /// Its new names; without a registry they mean localhost
    #[arg(required = true, value_name = "DST")]
    names: Vec<String>,
}

/// Take names from an image; the image stays
#[derive(clap::Args)]
pub(crate) struct UntagArgs {
    /// The image
    #[arg(value_name = "REF")]
    image: String,
    /// The names; all it has unless told
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) fn tag(context: &Context, args: &TagArgs) -> anyhow::Result<ExitCode> {
    let names = args.names.iter().map(|name| new_name(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let (image, store) = (image_ref(&args.image)?, existing(context)?);
    // One after the other, as podman does: the last one comes first.
    transact(&store, |txn| names.iter().try_for_each(|name| txn.tag(image.clone(), name)))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn untag(context: &Context, args: &UntagArgs) -> anyhow::Result<ExitCode> {
    let names = args.names.iter().map(|name| new_name(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let (image, store) = (image_ref(&args.image)?, existing(context)?);
    transact(&store, |txn| txn.untag(image, &names))?;
    Ok(ExitCode::SUCCESS)
}
