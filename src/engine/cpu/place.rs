//! Where values lie: a layout and a buffer for each, and for what is concatenated a place in the whole.
//!
//! A value whose only reader is a concatenation is written where the concatenation would copy it, if it begins with a
//! block there: its kernel writes some blocks of a larger tensor.

use super::passes::{Layer, LayerOp};
use crate::kernels::{Element, Layout, Token};

/// Where a value lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) buffer: usize,
    /// Words of each image before the value's first.
    pub(super) offset: usize,
    pub(super) layout: Layout,
}

#[derive(Debug)]
pub(super) struct Placement {
    /// By layer.
    pub(super) places: Vec<Place>,
    /// Words of one image that each buffer must hold.
    pub(super) buffers: Vec<usize>,
}

/// A value inside another.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The layer that concatenates.
    whole: usize,
    /// Words of each image before it.
    offset: usize,
}

/// Gives each value a layout and a buffer, reusing those whose values nobody reads any more.
pub(super) fn place(layers: &[Layer], token: Token) -> Placement {
    let mut layouts = layouts(layers, token);
    let parts = parts(layers, &mut layouts);
    let mut last_reader: Vec<usize> = (0..layers.len()).collect();
    for (index, layer) in layers.iter().enumerate() {
        for read in layer.reads() {
            last_reader[read] = index;
        }
    }
    let mut places = Vec::with_capacity(layers.len());
    let mut buffers = Buffers::default();
    // the buffers of wholes of which a part has been written
    let mut begun: Vec<Option<usize>> = vec![None; layers.len()];
    for (index, (layer, &layout)) in layers.iter().zip(&layouts).enumerate() {
        let (whole, offset) = parts[index].map_or((index, 0), |part| (part.whole, part.offset));
        let size = layouts[whole].image();
        let buffer = *begun[whole].get_or_insert_with(|| buffers.take(size));
        places.push(Place {
            buffer,
            offset,
            layout,
        });
        let mut dead: Vec<usize> = layer
            .reads()
            .filter(|&read| last_reader[read] == index && parts[read].is_none())
            .collect();
        dead.sort_unstable();
        dead.dedup();
        for read in dead {
            buffers.free.push(places[read].buffer);
        }
    }
    Placement {
        places,
        buffers: buffers.sizes,
    }
}

#[derive(Default)]
struct Buffers {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Buffers {
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

/// Which values are written into another, and makes their layouts ones of its blocks.
fn parts(layers: &[Layer], layouts: &mut [Layout]) -> Vec<Option<Part>> {
    let mut readers = vec![0; layers.len()];
    for read in layers.iter().flat_map(Layer::reads) {
        readers[read] += 1;
    }
    let mut parts = vec![None; layers.len()];
    for (whole, layer) in layers.iter().enumerate() {
        if !matches!(layer.op, LayerOp::Concat) {
            continue;
        }
        let to = layouts[whole];
        let mut first = 0;
        for &input in &layer.inputs {
            let from = &mut layouts[input];
            let writes = matches!(
                layers[input].op,
                LayerOp::Conv { .. } | LayerOp::Pool(_) | LayerOp::Map { .. }
            );
            if writes && readers[input] == 1 && first % to.per_block() == 0 {
                from.border = to.border;
                from.gap = to.blocks() - from.blocks();
                parts[input] = Some(Part {
                    whole,
                    offset: first / to.per_block() * to.block(),
                });
            }
            first += from.channels;
        }
    }
    parts
}

/// The layout of each layer's value: blocks of the vector's width, bordered for its widest reader. An image of few
/// channels keeps them together, so that a stem's window is one run of values and no lane is wasted on padding.
fn layouts(layers: &[Layer], token: Token) -> Vec<Layout> {
    let mut layouts: Vec<Layout> = layers
        .iter()
        .map(|layer| Layout {
            channels: layer.shape.channels,
            height: layer.shape.height,
            width: layer.shape.width,
            element: token.element(),
            lanes: token.lanes(),
            border: 0,
            gap: 0,
        })
        .collect();
    let mut only_convs = vec![true; layers.len()];
    for layer in layers {
        for read in layer.reads() {
            only_convs[read] &=
                layer.inputs.contains(&read) && matches!(layer.op, LayerOp::Conv { .. });
        }
        if let LayerOp::Conv { spec, .. } = &layer.op {
            for &input in &layer.inputs {
                let border = &mut layouts[input].border;
                *border = (*border).max(spec.padding.0).max(spec.padding.1);
            }
        }
    }
    for ((layer, layout), only_convs) in layers.iter().zip(&mut layouts).zip(only_convs) {
        let narrow = matches!(layer.op, LayerOp::Image)
            && only_convs
            && layout.channels < layout.per_block();
        // the last value is read as planes, which any layout gives
        if narrow {
            layout.lanes = layout.channels.div_ceil(layout.element.packed());
        }
    }
    // logits keep the precision they were summed in
    if let (Some(layer), Some(layout)) = (layers.last(), layouts.last_mut())
        && matches!(layer.op, LayerOp::Conv { .. })
        && layer.reads().eq(layer.inputs.iter().copied())
    {
        layout.element = Element::F32;
    }
    layouts
}
