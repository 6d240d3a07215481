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
        let packed = layout.element.packed();
        let first = block * layout.per_block();
        let plane_row = |channel: usize| {
            let from = (image * layout.channels + channel) * plane + y * layout.width;
            &planes[from..from + layout.width]
        };
        let pixels = &mut row[layout.border * layout.lanes..];
        for channel in (first..layout.channels.min(first + layout.per_block())).step_by(packed) {
            let lane = (channel - first) / packed;
            let to = pixels[lane..].iter_mut().step_by(layout.lanes);
            let values = plane_row(channel);
            if packed == 2 && channel + 1 < layout.channels {
                let pairs = values.iter().zip(plane_row(channel + 1));
                to.zip(pairs)
                    .for_each(|(to, (&a, &b))| *to = layout.element.word(a, b));
            } else {
                to.zip(values)
                    .for_each(|(to, &value)| *to = layout.element.word(value, 0.0));
            }
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
            let (block, place) = (channel / layout.per_block(), channel % layout.per_block());
            let from = image * layout.image() + block * layout.block();
            let block = &input[from..from + layout.block()];
            for (y, row) in values.chunks_exact_mut(layout.width).enumerate() {
                let pixels = block[layout.row_start(y)..].chunks_exact(layout.lanes);
                row.iter_mut()
                    .zip(pixels)
                    .for_each(|(to, pixel)| *to = layout.element.get(pixel, place));
            }
        }
    });
}

/// Turns images into single pixels whose channels are the images' values, plane by plane.
///
/// # Panics
/// When a slice is shorter than its layout and the batch say, or `to` has not as many values as `from`.
pub fn flatten(
    threads: &dyn Threads,
    from: &Layout,
    batch: usize,
    input: &[f32],
    to: &Layout,
    output: &mut [f32],
) {
    let plane = from.height * from.width;
    assert_eq!(to.channels, from.channels * plane, "values to flatten");
    let output = &mut output[..batch * to.image()];
    chunks(threads, output, to.image(), |image, chunk| {
        chunk.fill(0.0);
        let input = &input[image * from.image()..(image + 1) * from.image()];
        for channel in 0..from.channels {
            let (block, place) = (channel / from.per_block(), channel % from.per_block());
            for pixel in 0..plane {
                let at = block * from.block()
                    + from.row_start(pixel / from.width)
                    + pixel % from.width * from.lanes;
                let value = from.element.get(&input[at..at + from.lanes], place);
                to.element.put(chunk, channel * plane + pixel, value);
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
    let (lanes, element, per_block) = (layout.lanes, layout.element, layout.per_block());
    let fits = |l: &Layout| {
        (l.lanes, l.element, l.height, l.width) == (lanes, element, layout.height, layout.width)
    };
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
            for channel in (0..from.channels).step_by(per_block) {
                let run = per_block.min(from.channels - channel);
                let from_block = &data[channel / per_block * from.block()..];
                for pixel in 0..layout.height * layout.width {
                    let (y, x) = (pixel / layout.width, pixel % layout.width);
                    let a = from.row_start(y) + x * lanes;
                    let source = &from_block[a..a + lanes];
                    // a block that begins a block there moves whole; lanes beyond its channels are zeros and overwritten
                    // by what follows
                    let place = |channel: usize| {
                        channel / per_block * layout.block() + layout.row_start(y) + x * lanes
                    };
                    if (first + channel).is_multiple_of(per_block) {
                        let b = place(first + channel);
                        chunk[b..b + lanes].copy_from_slice(source);
                        continue;
                    }
                    for i in 0..run {
                        let to = first + channel + i;
                        let b = place(to);
                        let value = element.get(source, i);
                        element.put(&mut chunk[b..b + lanes], to % per_block, value);
                    }
                }
            }
            first += from.channels;
        }
    });
}
