//! Where values lie: a layout and a buffer for each, and for what is concatenated some blocks of the whole.

use crate::engine::buffers::{self, Buffers};
use crate::engine::passes::{Layer, LayerOp};
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

/// Gives each value a layout and a buffer, reusing those whose values nobody reads any more.
pub(super) fn place(layers: &[Layer], token: Token) -> Placement {
    let mut layouts = layouts(layers, token);
    // a value that begins with a block is some blocks of the whole
    let parts = buffers::concatenated(layers, |whole, channel| {
        channel % layouts[whole].per_block() == 0
    });
    let mut offsets = vec![0; layers.len()];
    for (index, part) in parts.iter().enumerate() {
        let Some(part) = part else { continue };
        let to = layouts[part.whole];
        let from = &mut layouts[index];
        from.border = to.border;
        from.gap = to.blocks() - from.blocks();
        offsets[index] = part.channel / to.per_block() * to.block();
    }
    let sizes: Vec<usize> = layouts.iter().map(Layout::image).collect();
    let buffers = Buffers::assign(layers, &parts, &sizes);
    let places = buffers.of.iter().zip(offsets).zip(layouts);
    Placement {
        places: places
            .map(|((&buffer, offset), layout)| Place {
                buffer,
                offset,
                layout,
            })
            .collect(),
        buffers: buffers.sizes,
    }
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
