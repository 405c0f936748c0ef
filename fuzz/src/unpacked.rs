//! The answer of the child that unpacks zips, which an archive may have taken over: what is accepted keeps the rules that an
//! archive has to keep.

use batchd::store::unpack::decode;

use super::zip::assert_sound;

pub(crate) fn check(bytes: &[u8]) {
    if let Ok(Ok(files)) = decode(bytes) {
        assert_sound(&files);
        assert!(files.bytes_total() <= bytes.len() as u64);
    }
}
