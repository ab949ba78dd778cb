//! Pure: no I/O. The file names of big data keys, there and back (spec section 3).

use data_encoding::BASE64;

/// Why a big data key has no file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("big data key {key:?} {why}")]
pub struct BigDataKeyError {
    /// The key, shortened to 100 characters.
    pub key: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The name of the file that holds the big data item `key`: the key itself if it is made of `[a-z0-9.]` alone,
/// else `=` and its base64.
///
/// # Errors
///
/// A key that is empty, would leave its directory, or is too long for a file name.
pub fn big_data_file(key: &str) -> Result<String, BigDataKeyError> {
    let refuse = |why| Err(BigDataKeyError { key: super::error::shorten(key), why });
    if key.is_empty() {
        return refuse("is empty");
    }
    if key == "." || key == ".." {
        return refuse("is not a file name");
    }
    // Before the encoding: the longest key that fits is 189 bytes in base64, 255 plain.
    if key.len() > 255 {
        return refuse("is too long for a file name");
    }
    let name = if key.bytes().all(is_plain) { key.to_owned() } else { format!("={}", BASE64.encode(key.as_bytes())) };
    if name.len() > 255 {
        return refuse("is too long for a file name");
    }
    if name.contains('/') {
        return refuse("has a file name with a slash");
    }
    Ok(name)
}

/// The key whose file has this name; `None` if no key has it.
pub fn big_data_key(file: &str) -> Option<String> {
    let key = match file.strip_prefix('=') {
        Some(code) => String::from_utf8(BASE64.decode(code.as_bytes()).ok()?).ok()?,
        None => file.to_owned(),
    };
    (big_data_file(&key).ok()? == file).then_some(key)
}

fn is_plain(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_gos_file_names_and_come_back() {
        let hex = "a".repeat(64);
        for (key, file) in [
            ("manifest", "manifest"),
            ("instances.json", "instances.json"),
            ("zstd-chunked-manifest", "=enN0ZC1jaHVua2VkLW1hbmlmZXN0"),
            ("sha256:0b", "=c2hhMjU2OjBi"),
            ("a/b", "=YS9i"),
        ] {
            assert_eq!(big_data_file(key).unwrap(), file);
            assert_eq!(big_data_key(file).as_deref(), Some(key));
        }
        assert_eq!(big_data_file(&format!("sha256:{hex}")).unwrap().len(), 97);
        assert_eq!(big_data_file(&format!("manifest-sha256:{hex}")).unwrap().len(), 109);
        assert_eq!(big_data_file(&format!("signature-{hex}")).unwrap().len(), 101);
    }

    #[test]
    fn hostile_keys_have_no_file() {
        let long = "a".repeat(256);
        let code = "-".repeat(200);
        for key in ["", ".", "..", &long, &code, "??????", "\u{7f}\u{7f}\u{7f}"] {
            match big_data_file(key) {
                Ok(name) => assert!(!name.contains('/'), "{key:?}"),
                Err(error) => assert!(error.to_string().starts_with("big data key "), "{error}"),
            }
        }
        assert!(big_data_file("??????").is_err());
        for key in ["../x", "a/b", "\0"] {
            let name = big_data_file(key).unwrap();
            assert!(name.starts_with('=') && !name.contains('/'));
        }
        for file in ["", "..", "=", "=!!", "=YQ==", "=YQ", "A", "=//8=", "=bWFuaWZlc3Q="] {
            assert_eq!(big_data_key(file), None, "{file}");
        }
    }
}
