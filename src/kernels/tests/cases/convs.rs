//! The table of convolutions: sizes around each tile and block, then every other feature in turn.

use super::*;

/// Tile sizes of any instruction set here; cases lie around each.
const TILES: [usize; 4] = [3, 6, 7, 14];

/// Convolutions around each tile edge and with every feature; those that the algorithm supports.
pub(in crate::kernels::tests) fn convs(token: Token, algorithm: Algorithm) -> usize {
    let lanes = token.lanes();
    let mut cases = Vec::new();
    let mut add = |kernel, stride, groups, channels, size| {
        cases.push(ConvCase::new(kernel, stride, groups, channels, size))
    };
    // widths and heights around the tiles
    for tile in TILES {
        for size in [tile - 1, tile, tile + 1, 2 * tile, 2 * tile + 1] {
            add((1, 1), 1, 1, (lanes, 2 * lanes), (3, size));
            add((3, 3), 1, 1, (lanes, 2 * lanes), (size, size));
            add((3, 3), 2, 1, (lanes, lanes), (size, 2 * size));
        }
    }
    // channels around a block, and the blocks of a tile
    for inputs in [1, lanes - 1, lanes, lanes + 1, 3 * lanes] {
        for outputs in [1, lanes - 1, lanes, lanes + 1, 2 * lanes, 3 * lanes + 1] {
            add((3, 3), 1, 1, (inputs, outputs), (5, 6));
            add((1, 1), 1, 1, (inputs, outputs), (1, 1));
        }
    }
    for kernel in [
        (1, 1),
        (2, 3),
        (3, 3),
        (5, 5),
        (7, 7),
        (1, 7),
        (7, 1),
        (11, 11),
    ] {
        for stride in [1, 2, 3, 4] {
            add(kernel, stride, 1, (lanes + 2, lanes + 3), (13, 15));
        }
    }
    for per_group in [1, 2, 3, 4, 6, 8, 16, 32] {
        for groups in [2, 5, 8] {
            add(
                (3, 3),
                1,
                groups,
                (groups * per_group, groups * per_group),
                (5, 7),
            );
            add((3, 3), 2, groups, (groups * per_group, groups * 3), (6, 5));
        }
    }
    // groups inside a block, around the strips and with bands of several rows
    for per_group in [1, 2, 4, 8] {
        for (stride, widest) in [(1, 14), (2, 10), (1, 6), (2, 6), (1, 3), (2, 3)] {
            for width in [1, widest - 1, widest, widest + 1, 2 * widest + 1] {
                let channels = 2 * lanes + 8;
                let size = (width / 2 + 3, stride * width);
                let groups = channels / per_group;
                add((3, 3), stride, groups, (channels, channels), size);
            }
        }
    }
    let plain = cases.clone();
    for (i, case) in plain.iter().enumerate() {
        // what else a case can have, in turn
        cases.push(ConvCase {
            batch: 1 + i % 3,
            spare_border: i % 2,
            out_border: (i / 2) % 3,
            gap: (i / 3) % 3,
            epilogue: i % EPILOGUES,
            ..*case
        });
    }
    // stems: the image's own channels innermost
    for (channels, kernel, stride) in [(3, 7, 2), (3, 3, 1), (1, 5, 2), (4, 11, 4), (3, 3, 2)] {
        for width in [9, 27, 28, 29, 64] {
            cases.push(ConvCase {
                narrow: true,
                batch: 2,
                epilogue: 2,
                out_border: 1,
                ..ConvCase::new(
                    (kernel, kernel),
                    stride,
                    1,
                    (channels, 2 * lanes),
                    (11, width),
                )
            });
        }
    }
    if token.element() != Element::F32 {
        // logits: a block's last vector may be one too many
        for outputs in [1, lanes, lanes + 1, 3 * lanes] {
            for (batch, size) in [(1, (1, 1)), (17, (1, 1)), (2, (3, 5))] {
                cases.push(ConvCase {
                    wide: true,
                    batch,
                    epilogue: 2,
                    ..ConvCase::new((1, 1), 1, 1, (3 * lanes, outputs), size)
                });
            }
        }
    }
    cases.retain(|case| case.suits(token, algorithm));
    cases.iter().for_each(|case| case.check(token, algorithm));
    cases.len()
}
