//! Activations between planes (`[image][channel][row][column]`, as engines take and return them) and blocks, and
//! concatenation along the channels.

use std::ops::Range;

use super::disjoint::{Disjoint, Threads, chunks, claim};
use super::layout::Layout;

/// Lays out planes; borders and lanes beyond the last channel become zeros.
///
/// # Panics
/// When a slice is shorter than the layout and the batch say, or the layout is a part of a larger tensor.
pub fn from_planes(
    threads: &dyn Threads,
    layout: &Layout,
    batch: usize,
    planes: &[f32],
    output: &mut [f32],
) {
    let plane = layout.height * layout.width;
    let planes = &planes[..batch * layout.channels * plane];
    assert_eq!(layout.gap, 0, "a tensor of its own");
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
    let input = &input[..layout.extent(batch)];
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
/// When a slice is shorter than its layout and the batch say, `to` has not as many values as `from`, or is a part of a
/// larger tensor.
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
    assert_eq!(to.gap, 0, "a tensor of its own");
    let output = &mut output[..batch * to.image()];
    chunks(threads, output, to.image(), |image, chunk| {
        chunk.fill(0.0);
        let input = &input[image * from.image()..][..from.extent(1)];
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

/// A tensor that a concatenation copies.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Channel of the whole that is this one's first.
    pub first: usize,
    pub layout: Layout,
    pub data: &'a [f32],
}

/// Copies tensors to their channels of a whole, in order; what is between them is there already. A block whose first
/// channel is copied is written as a whole, of another only the lanes of the channels copied.
///
/// # Panics
/// When the layouts do not fit or a slice is shorter than its layout and the batch say.
pub fn concat(
    threads: &dyn Threads,
    batch: usize,
    parts: &[Part<'_>],
    whole: &Layout,
    output: &mut [f32],
) {
    let fits = |part: &Part<'_>| {
        let l = &part.layout;
        (l.lanes, l.element, l.height, l.width)
            == (whole.lanes, whole.element, whole.height, whole.width)
            && part.first + l.channels <= whole.channels
            && part.data.len() >= l.extent(batch)
    };
    assert!(parts.iter().all(fits), "sizes to concatenate differ");
    let per_block = whole.per_block();
    let touches = |block: usize| {
        let channels = block * per_block..(block + 1) * per_block;
        parts.iter().any(|part| part.covers(&channels))
    };
    let touched: Vec<usize> = (0..whole.blocks())
        .filter(|&block| touches(block))
        .collect();
    let output = Disjoint::new(&mut output[..whole.extent(batch)]);
    claim(threads, batch * touched.len(), |task| {
        let (image, block) = (task / touched.len(), touched[task % touched.len()]);
        let start = image * whole.image() + block * whole.block();
        // SAFETY: the block lies within the data and is claimed once.
        let to = unsafe { output.region(start, whole.block()) };
        let channels = block * per_block..(block + 1) * per_block;
        for part in parts.iter().filter(|part| part.covers(&channels)) {
            if (part.first..part.first + part.layout.channels).contains(&channels.start) {
                to.fill(0.0);
            }
            part.copy(image, &channels, whole, to);
        }
    });
}

impl Part<'_> {
    fn covers(&self, channels: &Range<usize>) -> bool {
        self.first < channels.end && channels.start < self.first + self.layout.channels
    }

    /// Copies what this has of one block's channels.
    fn copy(&self, image: usize, channels: &Range<usize>, whole: &Layout, to: &mut [f32]) {
        let from = &self.layout;
        let data = &self.data[image * from.image()..];
        let last = self.first + from.channels;
        let own = channels.start.max(self.first)..channels.end.min(last);
        let packed = whole.element.packed();
        if !(self.first.is_multiple_of(packed) && own.end.is_multiple_of(packed)) {
            return self.copy_values(data, own, whole, to);
        }
        // word by word: runs that end with a block of either
        let mut channel = own.start;
        while channel < own.end {
            let source = channel - self.first;
            let left = from.per_block() - source % from.per_block();
            let run = left.min(own.end - channel);
            let words = run / packed;
            let block = &data[source / from.per_block() * from.block()..];
            let (lane, place) = (
                source % from.per_block() / packed,
                channel % whole.per_block() / packed,
            );
            for y in 0..whole.height {
                let source = block[from.row_start(y)..].chunks_exact(from.lanes);
                let target = to[whole.row_start(y)..].chunks_exact_mut(whole.lanes);
                for (to, from) in target.zip(source).take(whole.width) {
                    to[place..place + words].copy_from_slice(&from[lane..lane + words]);
                }
            }
            channel += run;
        }
    }

    /// The same where a channel's half of a word moves to another half.
    fn copy_values(&self, data: &[f32], own: Range<usize>, whole: &Layout, to: &mut [f32]) {
        let (from, lanes) = (&self.layout, whole.lanes);
        for channel in own {
            let source = channel - self.first;
            let block = &data[source / from.per_block() * from.block()..];
            for pixel in 0..whole.height * whole.width {
                let (y, x) = (pixel / whole.width, pixel % whole.width * lanes);
                let pixel = &block[from.row_start(y) + x..][..lanes];
                let value = from.element.get(pixel, source % from.per_block());
                let pixel = &mut to[whole.row_start(y) + x..][..lanes];
                whole.element.put(pixel, channel % whole.per_block(), value);
            }
        }
    }
}
