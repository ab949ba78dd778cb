//! Pure: no I/O. The bytes of an intent: bincode 2, pinned, standard configuration with a limit; used nowhere else.

use serde::Deserialize;

use super::{ImageChange, ImagePut, Intent, LayerPut, NameClaim, StagedData, Step};
use crate::ids::{ImageId, LayerId, LinkId};

/// The largest intent that is decoded, in bytes.
pub const LIMIT: usize = 256 << 20;

/// The version of the payload, its first byte.
const VERSION: u8 = 3;
/// What knows no repairs: written where there are none, so that programs of that version can end the transaction.
const WITHOUT_MENDS: u8 = 2;

/// The payload of version 1, which only added images.
#[derive(Deserialize)]
struct First {
    seq: u64,
    layers: Vec<LayerPut>,
    images: Vec<FirstPut>,
    steps: Vec<Step>,
}

/// An image of version 1.
#[derive(Deserialize)]
struct FirstPut {
    id: ImageId,
    record: String,
    names: Vec<NameClaim>,
    chain: Vec<(LayerId, LinkId)>,
    data: Vec<StagedData>,
}

impl From<FirstPut> for ImageChange {
    fn from(FirstPut { id, record, names, chain, data }: FirstPut) -> Self {
        Self::Put(ImagePut { id, record, names, chain, data, seen: None })
    }
}

impl From<First> for Intent {
    fn from(First { seq, layers, images, steps }: First) -> Self {
        Self { seq, layers, images: images.into_iter().map(Into::into).collect(), removals: vec![], steps }
    }
}

/// An intent that cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CodecError {
    #[error("the intent has payload version {seen}, this program knows {VERSION}; use the newer cstor-rs that wrote it")]
    Version { seen: u8 },
    #[error("the intent is empty")]
    Empty,
    #[error("the intent has {rest} bytes behind its end")]
    Trailing { rest: usize },
    #[error("the intent cannot be encoded")]
    Encode(#[source] bincode::error::EncodeError),
    #[error("the intent cannot be decoded")]
    Decode(#[source] bincode::error::DecodeError),
}

/// The payload of an intent record.
///
/// # Errors
///
/// [`CodecError::Encode`], never in practice.
pub fn encode(intent: &Intent) -> Result<Vec<u8>, CodecError> {
    let mends = intent.steps.iter().any(|step| matches!(step, Step::Mend(_)));
    let mut bytes = vec![if mends { VERSION } else { WITHOUT_MENDS }];
    bytes.extend(bincode::serde::encode_to_vec(intent, bincode::config::standard()).map_err(CodecError::Encode)?);
    Ok(bytes)
}

/// Reads the payload of an intent record.
///
/// # Errors
///
/// For any other version, and for bytes that are not exactly one intent.
pub fn decode(bytes: &[u8]) -> Result<Intent, CodecError> {
    let (version, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    match *version {
        VERSION | WITHOUT_MENDS => whole(rest),
        1 => whole::<First>(rest).map(Into::into),
        seen => Err(CodecError::Version { seen }),
    }
}

fn whole<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config).map_err(CodecError::Decode)?;
    match bytes.len() - used {
        0 => Ok(value),
        rest => Err(CodecError::Trailing { rest }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Place, Step, Table};

    fn sample() -> Intent {
        let id: crate::ids::LayerId = "a".repeat(64).parse().unwrap();
        let link: crate::ids::LinkId = "X".repeat(26).parse().unwrap();
        Intent {
            seq: 7,
            layers: vec![super::super::LayerPut { id: id.clone(), link: link.clone(), record: "{}".into() }],
            images: vec![],
            removals: vec![],
            steps: vec![Step::PlaceLayer { id, link }, Step::Sync(vec![Place::Overlay]), Step::Switch(Table::Layers)],
        }
    }

    #[test]
    fn an_intent_survives_its_encoding() {
        assert_eq!(decode(&encode(&sample()).unwrap()).unwrap(), sample());
    }

    #[test]
    fn every_truncation_and_a_longer_payload_are_errors() {
        let bytes = encode(&sample()).unwrap();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len}");
        }
        let mut long = bytes;
        long.push(0);
        assert!(matches!(decode(&long), Err(CodecError::Trailing { rest: 1 })));
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            for version in [1, 2, 3] {
                let mut payload = vec![version];
                payload.extend(&bytes);
                drop(decode(&payload));
            }
        }
    }
}
