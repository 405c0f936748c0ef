//! In which order two streams came: [`pieces`].

use crate::model::time::Instant;
use crate::rundir::times::{Growth, Stream};

/// A piece of one log that is to be shown next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which log.
    pub(super) stream: Stream,
    /// When it came; none if the times do not say.
    pub(super) at: Option<Instant>,
    /// The first byte.
    pub(super) from: u64,
    /// Behind the last byte.
    pub(super) to: u64,
}

/// What is new, in the order in which it came.
///
/// `shown` and `lengths` are bytes of stdout and stderr; `shown` is moved on to what the pieces show. What no growth tells of is
/// left for later, unless no more growths will come.
pub(super) fn pieces(
    growths: impl Iterator<Item = Growth>,
    shown: &mut [u64; 2],
    lengths: [u64; 2],
    no_more: bool,
) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut push = |stream: Stream, at, to: u64| {
        let from = &mut shown[stream as usize];
        let to = to.min(lengths[stream as usize]);
        if to > *from {
            pieces.push(Piece { stream, at, from: *from, to });
            *from = to;
        }
    };
    for Growth { at, stream, to_offset, .. } in growths {
        push(stream, Some(at), to_offset);
    }
    if no_more {
        push(Stream::Stdout, None, u64::MAX);
        push(Stream::Stderr, None, u64::MAX);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        use Stream::{Stderr, Stdout};
        let growth =
            |at_s, stream, from_offset, to_offset| Growth { at: Instant::from_s(at_s), stream, from_offset, to_offset };
        let growths = [growth(1, Stdout, 0, 10), growth(2, Stderr, 0, 5), growth(3, Stdout, 10, 20)];
        let check = |mut shown: [u64; 2], lengths: [u64; 2], no_more: bool, expected: &[(i64, Stream, u64, u64)]| {
            let found = pieces(growths.into_iter(), &mut shown, lengths, no_more);
            let expected = expected.iter().map(|(at_s, stream, from, to)| Piece {
                stream: *stream,
                at: (*at_s > 0).then(|| Instant::from_s(*at_s)),
                from: *from,
                to: *to,
            });
            assert_eq!(found, expected.collect::<Vec<_>>(), "{shown:?} {lengths:?} {no_more}");
        };
        check([0, 0], [20, 5], true, &[(1, Stdout, 0, 10), (2, Stderr, 0, 5), (3, Stdout, 10, 20)]);
        // What has been shown is not shown again; what has no growth yet waits for it.
        check([12, 0], [30, 7], false, &[(2, Stderr, 0, 5), (3, Stdout, 12, 20)]);
        check([20, 5], [30, 7], false, &[]);
        check([20, 5], [30, 7], true, &[(0, Stdout, 20, 30), (0, Stderr, 5, 7)]);
        // A log that is shorter than its growths say.
        check([0, 0], [4, 0], true, &[(1, Stdout, 0, 4)]);
    }
}
