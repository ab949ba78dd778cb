//! Pure but for [`Platform::host`]: which of an index's images is meant for a machine.

use std::fmt;
use std::str::FromStr;

/// The longest part that is looked at.
const PART_MAX: usize = 32;

/// An operating system, an architecture in Go's words, and a variant of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux` and so on.
    pub os: String,
    /// `amd64`, `arm64`, `arm` and so on.
    pub architecture: String,
    /// `v7` and so on.
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {text:?} is not OS/ARCH[/VARIANT]")]
pub struct PlatformError {
    /// The text, shortened to 100 characters.
    pub text: String,
}

impl Platform {
    /// The platform of this machine.
    ///
    /// The variant of a 32-bit arm is what the program was built for, the oldest it can run on being certain.
    pub fn host() -> Self {
        let variant = (std::env::consts::ARCH == "arm").then(|| "v7".to_owned());
        Self { os: std::env::consts::OS.to_owned(), architecture: go_arch(std::env::consts::ARCH).to_owned(), variant }
    }

    /// The variants that will do, best first; `None` stands for an image that names no variant.
    ///
    /// As c/image orders them: a wanted variant, then the weaker ones of its family, then none; without a wanted
    /// one none comes first.
    fn variants(&self) -> Vec<Option<&str>> {
        let family: &[&str] = match self.architecture.as_str() {
            "arm" => &["v8", "v7", "v6", "v5"],
            "arm64" => &["v8"],
            _ => &[],
        };
        match self.variant.as_deref() {
            None => std::iter::once(None).chain(family.iter().map(|v| Some(*v))).collect(),
            Some(wanted) => {
                let weaker = family.iter().skip_while(|v| **v != wanted).skip(1).map(|v| Some(*v));
                std::iter::once(Some(wanted)).chain(weaker).chain([None]).collect()
            }
        }
    }

    /// How well an image of platform `other` fits here: 0 is best, `None` not at all.
    pub fn rank(&self, other: &Platform) -> Option<usize> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        self.variants().iter().position(|v| *v == other.variant.as_deref())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let refuse = || PlatformError { text: text.chars().take(100).collect() };
        let lower = text.to_ascii_lowercase();
        let mut parts = lower.split('/');
        let good = |p: &&str| !p.is_empty() && p.len() <= PART_MAX && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let os = parts.next().filter(good).ok_or_else(refuse)?;
        let arch = parts.next().filter(good).ok_or_else(refuse)?;
        let variant = match parts.next() {
            None => None,
            some => Some(some.filter(good).ok_or_else(refuse)?),
        };
        if parts.next().is_some() {
            return Err(refuse());
        }
        let implied = match arch {
            "armhf" => Some("v7"),
            "armel" => Some("v6"),
            _ => None,
        };
        Ok(Self { os: os.to_owned(), architecture: go_arch(arch).to_owned(), variant: variant.or(implied).map(str::to_owned) })
    }
}

/// Go's word for an architecture that others call differently.
fn go_arch(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        "x86" | "i386" | "i686" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn platforms_are_read_in_gos_words() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
        ] {
            assert_eq!(p(text).to_string(), want);
        }
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x", "li nux/amd64", &format!("linux/{}", "a".repeat(33))] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn arm_variants_fall_back_to_weaker_ones_only() {
        let table = [
            ("linux/arm/v7", "linux/arm/v7", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v7", "linux/arm/v8", None),
            ("linux/arm/v7", "linux/arm", Some(3)),
            ("linux/arm", "linux/arm", Some(0)),
            ("linux/arm", "linux/arm/v8", Some(1)),
            ("linux/arm64", "linux/arm64/v8", Some(1)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64", Some(1)),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "linux/386", None),
        ];
        for (wanted, offered, rank) in table {
            assert_eq!(p(wanted).rank(&p(offered)), rank, "{wanted} {offered}");
        }
    }
}
