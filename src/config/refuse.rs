//! Pure: no I/O. The settings under which the store would not be the one we know.

use toml::Value;

use super::error::{ConfigError, Origin};
use super::sources::Settings;

/// When a setting is refused.
#[derive(Clone, Copy)]
enum If {
    /// Whenever it says anything.
    Set,
    /// Unless it is false.
    True,
}

/// One refused option: the last part of its key, and why.
struct Refused(&'static str, If, &'static str);

const SEVERAL_STORES: &str = "a store spread over several roots is not supported yet";
const OWNERS: &str = "the owners and modes on the disk would not be those of the images";
const QUOTA: &str = "project quotas on layers are not supported";
const TRANSIENT: &str = "part of the tables would lie in the runroot";

/// Keys of `[storage]`.
const STORE: [Refused; 2] = [Refused("imagestore", If::Set, SEVERAL_STORES), Refused("transient_store", If::True, TRANSIENT)];

/// Keys of `[storage.options]` and `[storage.options.overlay]`, and names in STORAGE_OPTS.
const OPTIONS: [Refused; 15] = [
    Refused("additionalimagestores", If::Set, SEVERAL_STORES),
    Refused("additionallayerstores", If::Set, SEVERAL_STORES),
    // As driver options the stores have these names.
    Refused("additionalimagestore", If::Set, SEVERAL_STORES),
    Refused("additionallayerstore", If::Set, SEVERAL_STORES),
    Refused("imagestore", If::Set, SEVERAL_STORES),
    Refused("mount_program", If::Set, "whiteouts would not be those of the kernel's overlay"),
    Refused("force_mask", If::Set, OWNERS),
    Refused("ignore_chown_errors", If::True, OWNERS),
    Refused("remap-uids", If::Set, OWNERS),
    Refused("remap-gids", If::Set, OWNERS),
    Refused("remap-user", If::Set, OWNERS),
    Refused("remap-group", If::Set, OWNERS),
    Refused("use_composefs", If::True, "layers would be composefs images"),
    Refused("size", If::Set, QUOTA),
    Refused("inodes", If::Set, QUOTA),
];

/// The names of additional image stores, which fsck reads.
pub(super) const ADDITIONAL: [&str; 2] = ["additionalimagestores", "additionalimagestore"];

const REMEDY: &str = "remove the setting, or name a store that was made without it by --root";
const REMEDY_STORE: &str = "remove the setting, or name another storage.conf by CONTAINERS_STORAGE_CONF";

/// Refuses what `[storage]` itself must not say.
pub(super) fn check_store(settings: &Settings) -> Result<(), ConfigError> {
    for (key, value, origin) in settings.iter() {
        let name = key.strip_prefix("storage.");
        if let Some(refused) = STORE.iter().find(|r| Some(r.0) == name && says(value, r.1)) {
            return Err(unsupported(origin, key, &value.to_string(), refused.2, REMEDY_STORE));
        }
    }
    Ok(())
}

/// Refuses options of the driver: those of `STORAGE_OPTS` where it is set, which replaces those of the files.
pub(super) fn check_options(settings: &Settings, variable: Option<&str>, additional: bool) -> Result<(), ConfigError> {
    let allowed = |name: &str| additional && ADDITIONAL.contains(&name);
    for (key, value, origin) in settings.iter() {
        let Some(option) = key.strip_prefix("storage.options.") else { continue };
        let name = option.strip_prefix("overlay.").unwrap_or(option);
        // Id maps are no driver options: the variable does not replace them.
        if variable.is_some() && !name.starts_with("remap-") {
            continue;
        }
        if let Some(refused) = OPTIONS.iter().find(|r| r.0 == name && !allowed(name) && says(value, r.1)) {
            return Err(unsupported(origin, key, &value.to_string(), refused.2, REMEDY));
        }
    }
    for item in variable.unwrap_or_default().split(',') {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        let lower = key.trim().to_ascii_lowercase();
        let name = ["overlay2.", "overlay.", "."].iter().find_map(|p| lower.strip_prefix(p)).unwrap_or(&lower);
        if let Some(refused) = OPTIONS.iter().find(|r| r.0 == name && !allowed(name) && says(&Value::String(value.trim().to_owned()), r.1))
        {
            return Err(unsupported(&Origin::Variable("STORAGE_OPTS"), key.trim(), value, refused.2, REMEDY));
        }
    }
    Ok(())
}

/// The additional image stores, by the files or by `STORAGE_OPTS`, which replaces what they say.
pub(super) fn additional_stores(settings: &Settings, variable: Option<&str>) -> Vec<String> {
    let mut stores = Vec::new();
    if let Some(variable) = variable {
        for item in variable.split(',') {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            let name = key.trim().rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            if ADDITIONAL.contains(&name.as_str()) && !value.trim().is_empty() {
                stores.push(value.trim().to_owned());
            }
        }
        return stores;
    }
    for (key, value, _) in settings.iter() {
        let Some(option) = key.strip_prefix("storage.options.") else { continue };
        if ADDITIONAL.contains(&option.strip_prefix("overlay.").unwrap_or(option)) {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            stores.extend(list.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned));
        }
    }
    stores
}

/// Refuses every driver but overlay.
pub(super) fn check_driver(settings: &Settings, variable: Option<&str>) -> Result<(), ConfigError> {
    const WHY: &str = "only the overlay driver is supported";
    const REMEDY: &str = "name a store of the overlay driver by --root, and the driver by STORAGE_DRIVER=overlay";
    let is_ours = |driver: &str| matches!(driver, "overlay" | "overlay2");
    let driver = match variable {
        Some(driver) => Some((driver, Origin::Variable("STORAGE_DRIVER"))),
        None => settings.text("storage.driver")?.map(|(driver, origin)| (driver, origin.clone())),
    };
    if let Some((driver, origin)) = driver {
        return if is_ours(driver) { Ok(()) } else { Err(unsupported(&origin, "storage.driver", driver, WHY, REMEDY)) };
    }
    const PRIORITY: &str = "storage.driver_priority";
    match settings.get(PRIORITY) {
        None => Ok(()),
        Some((Value::Array(list), _)) if list.is_empty() || list.iter().filter_map(Value::as_str).any(is_ours) => Ok(()),
        Some((value @ Value::Array(_), origin)) => Err(unsupported(origin, PRIORITY, &value.to_string(), WHY, REMEDY)),
        Some((_, origin)) => Err(ConfigError::Type { origin: origin.clone(), key: PRIORITY.to_owned(), want: "a list" }),
    }
}

/// Whether a value says what is refused. What cannot be judged counts as said.
fn says(value: &Value, when: If) -> bool {
    let text = match value {
        Value::String(text) => text.trim(),
        Value::Integer(0) | Value::Boolean(false) => "",
        Value::Array(items) => return items.iter().any(|item| says(item, If::Set)),
        _ => return true,
    };
    match when {
        If::Set => !text.is_empty(),
        // The words Go's ParseBool takes for false.
        If::True => !matches!(text, "" | "0" | "f" | "F" | "false" | "False" | "FALSE"),
    }
}

fn unsupported(origin: &Origin, key: &str, value: &str, why: &'static str, remedy: &'static str) -> ConfigError {
    ConfigError::Unsupported { origin: origin.clone(), key: key.to_owned(), value: value.chars().take(100).collect(), why, remedy }
}
