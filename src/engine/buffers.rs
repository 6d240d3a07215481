//! Which memory holds each layer's value: a buffer of its own, reused as soon as its value has had its last reader, or a
//! place inside another value.
//!
//! A value whose only reader is a concatenation can be written where the concatenation would copy it.

use super::passes::{Layer, LayerOp};

/// The place of a value inside that of another layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The layer whose value holds it.
    pub(super) whole: usize,
    /// Channels before it.
    pub(super) channel: usize,
}

/// Buffers by number.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Of each layer's value.
    pub(super) of: Vec<usize>,
    /// Values of one image that each must hold.
    pub(super) sizes: Vec<usize>,
    /// Those whose values nobody reads any more.
    free: Vec<usize>,
}

/// Values that can be written in place: `fits` says so of a concatenation and the channel where the value begins.
pub(super) fn concatenated(
    layers: &[Layer],
    fits: impl Fn(usize, usize) -> bool,
) -> Vec<Option<Part>> {
    let mut readers = vec![0; layers.len()];
    for read in layers.iter().flat_map(Layer::reads) {
        readers[read] += 1;
    }
    let mut parts = vec![None; layers.len()];
    for (whole, layer) in layers.iter().enumerate() {
        if !matches!(layer.op, LayerOp::Concat) {
            continue;
        }
        let mut channel = 0;
        for &input in &layer.inputs {
            let writes = matches!(
                layers[input].op,
                LayerOp::Conv { .. } | LayerOp::Pool(_) | LayerOp::Map { .. }
            );
            if writes && readers[input] == 1 && fits(whole, channel) {
                parts[input] = Some(Part { whole, channel });
            }
            channel += layers[input].shape.channels;
        }
    }
    parts
}

impl Buffers {
    /// Gives each value a buffer; `sizes` are the values of one image of each that is no part.
    pub(super) fn assign(layers: &[Layer], parts: &[Option<Part>], sizes: &[usize]) -> Self {
        let whole = |index: usize| parts[index].map_or(index, |part| part.whole);
        let mut last_reader: Vec<usize> = (0..layers.len()).collect();
        for (index, layer) in layers.iter().enumerate() {
            for read in layer.reads() {
                last_reader[whole(read)] = index;
            }
        }
        let mut buffers = Self::default();
        let mut begun: Vec<Option<usize>> = vec![None; layers.len()];
        for (index, layer) in layers.iter().enumerate() {
            let at = whole(index);
            let buffer = *begun[at].get_or_insert_with(|| buffers.take(sizes[at]));
            buffers.of.push(buffer);
            let mut dead: Vec<usize> = layer
                .reads()
                .map(whole)
                .filter(|&read| read != at && last_reader[read] == index)
                .collect();
            dead.sort_unstable();
            dead.dedup();
            for read in dead {
                buffers.free.push(buffers.of[read]);
            }
        }
        buffers
    }

    /// A free buffer: the smallest that fits, or else the largest, which grows, or else a new one.
    fn take(&mut self, size: usize) -> usize {
        let sizes = &mut self.sizes;
        let free = || self.free.iter().enumerate();
        let choice = free()
            .filter(|(_, b)| sizes[**b] >= size)
            .min_by_key(|(_, b)| sizes[**b])
            .or_else(|| free().max_by_key(|(_, b)| sizes[**b]))
            .map(|(at, _)| at);
        let buffer = match choice {
            Some(at) => self.free.swap_remove(at),
            None => {
                sizes.push(0);
                sizes.len() - 1
            }
        };
        sizes[buffer] = sizes[buffer].max(size);
        buffer
    }
}
