//! `times`, the small file beside the logs: whatever is in it, each stream only grows, without a gap, and there are no more
//! growths than bytes.

use batchd::rundir::times;

pub(crate) fn check(bytes: &[u8]) {
    let mut offsets = [0; 2];
    let mut count = 0;
    for growth in times::read(bytes) {
        let offset = &mut offsets[growth.stream as usize];
        assert_eq!(growth.from_offset, *offset);
        assert!(growth.to_offset >= growth.from_offset);
        *offset = growth.to_offset;
        count += 1;
    }
    assert!(count * 2 <= bytes.len());
}
