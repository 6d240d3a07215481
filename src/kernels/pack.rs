//! Activations between planes (`[image][channel][row][column]`, as engines take and return them) and blocks, and
//! concatenation along the channels.

use super::disjoint::{Threads, chunks};
use super::layout::Layout;

/// Lays out planes; borders and lanes beyond the last channel become zeros.
///
/// # Panics
/// When a slice is shorter than the layout and the batch say.
pub fn from_planes(
    threads: &dyn Threads,
    layout: &Layout,
    batch: usize,
    planes: &[f32],
    output: &mut [f32],
) {
    let plane = layout.height * layout.width;
    let planes = &planes[..batch * layout.channels * plane];
    let output = &mut output[..batch * layout.image()];
    let rows = layout.height + 2 * layout.border;
    chunks(threads, output, layout.row(), |i, row| {
        row.fill(0.0);
        let y = (i % rows).wrapping_sub(layout.border);
        if y >= layout.height {
            return;
        }
        let (image, block) = (i / rows / layout.blocks(), i / rows % layout.blocks());
        let first = block * layout.lanes;
        let pixels = &mut row[layout.border * layout.lanes..];
        for lane in 0..layout.lanes.min(layout.channels - first) {
            let from = (image * layout.channels + first + lane) * plane + y * layout.width;
            let to = pixels[lane..].iter_mut().step_by(layout.lanes);
            to.zip(&planes[from..from + layout.width])
                .for_each(|(to, &value)| *to = value);
        }
    });
}

/// The inverse of [`from_planes`]. Image `i` goes to `output[i * stride..]`; the rest of its stride becomes zeros.
///
/// # Panics
/// When a slice is shorter than the layout and the batch say, or `stride` than an image.
pub fn to_planes(
    threads: &dyn Threads,
    layout: &Layout,
    batch: usize,
    input: &[f32],
    stride: usize,
    output: &mut [f32],
) {
    let plane = layout.height * layout.width;
    let input = &input[..batch * layout.image()];
    let output = &mut output[..batch * stride];
    chunks(threads, output, stride, |image, chunk| {
        let (values, rest) = chunk.split_at_mut(layout.channels * plane);
        rest.fill(0.0);
        for (channel, values) in values.chunks_exact_mut(plane).enumerate() {
            let (block, lane) = (channel / layout.lanes, channel % layout.lanes);
            let from = image * layout.image() + block * layout.block();
            let block = &input[from..from + layout.block()];
            for (y, row) in values.chunks_exact_mut(layout.width).enumerate() {
                let from = block[layout.row_start(y) + lane..]
                    .iter()
                    .step_by(layout.lanes);
                row.iter_mut()
                    .zip(from)
                    .for_each(|(to, &value)| *to = value);
            }
        }
    });
}

/// Joins tensors along the channels, in order.
///
/// # Panics
/// When the layouts do not fit or a slice is shorter than its layout and the batch say.
pub fn concat(
    threads: &dyn Threads,
    batch: usize,
    inputs: &[(Layout, &[f32])],
    layout: &Layout,
    output: &mut [f32],
) {
    let lanes = layout.lanes;
    let fits =
        |l: &Layout| l.lanes == lanes && l.height == layout.height && l.width == layout.width;
    assert!(
        inputs.iter().all(|(l, _)| fits(l)),
        "sizes to concatenate differ"
    );
    let channels: usize = inputs.iter().map(|(l, _)| l.channels).sum();
    assert_eq!(channels, layout.channels, "channels to concatenate");
    let output = &mut output[..batch * layout.image()];
    chunks(threads, output, layout.image(), |image, chunk| {
        chunk.fill(0.0);
        let mut first = 0;
        for (from, data) in inputs {
            let data = &data[image * from.image()..(image + 1) * from.image()];
            for channel in 0..from.channels {
                // a run of channels that stay neighbours in both layouts moves at once
                let (source, target) = (channel % lanes, (first + channel) % lanes);
                if source != 0 && target != 0 {
                    continue;
                }
                let run = (lanes - source)
                    .min(lanes - target)
                    .min(from.channels - channel);
                let from_block = &data[channel / lanes * from.block()..];
                let to_block = &mut chunk[(first + channel) / lanes * layout.block()..];
                for y in 0..layout.height {
                    for x in 0..layout.width {
                        let (a, b) = (
                            from.row_start(y) + x * lanes + source,
                            layout.row_start(y) + x * lanes + target,
                        );
                        to_block[b..b + run].copy_from_slice(&from_block[a..a + run]);
                    }
                }
            }
            first += from.channels;
        }
    });
}
