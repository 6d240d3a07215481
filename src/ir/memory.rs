//! Memory derived from a graph, as if every value were f32: what weights take in a file, and what the values of one
//! image take at the fullest moment.

use super::{Graph, Node, Op};

const F32: u64 = size_of::<f32>() as u64;

impl Graph {
    /// Bytes of the tensors that a weight file must hold, running statistics included.
    pub fn weight_bytes(&self) -> u64 {
        let parameters = self.parameters();
        let values = parameters.iter().map(|p| p.shape.iter().product::<usize>());
        values.sum::<usize>() as u64 * F32
    }

    /// Largest sum of the bytes of one image's values that are alive at once, when layers run in graph order.
    ///
    /// A value is alive from the layer that yields it to the last that reads it, so that during a layer its inputs and
    /// its output are. An element-wise layer writes over an input that nothing reads later. An engine that fuses layers
    /// can need less, one that keeps buffers apart more; weights and an algorithm's own scratch memory are not counted.
    pub fn peak_activation_bytes(&self) -> u64 {
        let last_reads = self.last_reads();
        let (mut alive, mut peak) = (0, 0);
        for (index, node) in self.nodes().iter().enumerate() {
            let mut dying = node.inputs.clone();
            dying.retain(|input| last_reads[input.index()] == index);
            dying.sort_unstable();
            dying.dedup();
            let during = match !dying.is_empty() && node.op.is_element_wise() {
                true => alive,
                false => alive + bytes(node),
            };
            peak = peak.max(during);
            let freed: u64 = dying.iter().map(|&input| bytes(self.node(input))).sum();
            alive = alive + bytes(node) - freed;
        }
        peak
    }

    /// Index of the last node that reads each value; its own where none does.
    fn last_reads(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.nodes().len()).collect();
        for (index, node) in self.nodes().iter().enumerate() {
            for input in &node.inputs {
                last[input.index()] = index;
            }
        }
        last
    }
}

/// Of the node's value, for one image.
fn bytes(node: &Node) -> u64 {
    node.shape.elements() as u64 * F32
}

impl Op {
    /// Whether each output value depends on the input values of its own place alone.
    fn is_element_wise(&self) -> bool {
        match self {
            Self::BatchNorm { .. }
            | Self::Relu
            | Self::Add
            | Self::Scale { .. }
            | Self::Flatten => true,
            Self::Input
            | Self::Conv2d { .. }
            | Self::Concat
            | Self::MaxPool(_)
            | Self::AvgPool { .. }
            | Self::AdaptiveAvgPool { .. }
            | Self::Subsample { .. }
            | Self::PadChannels { .. }
            | Self::Linear { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{Builder, Graph, NodeId, Shape};

    /// A network on images of 1 x 2 x 2 pixels, 16 bytes: `layers`, the mean of each channel, and two classes.
    fn graph(layers: impl FnOnce(&mut Builder, NodeId) -> NodeId) -> Graph {
        let (mut b, x) = Builder::new(Shape::new(1, 2, 2));
        let x = layers(&mut b, x);
        let x = b.global_avg_pool(x);
        let x = b.flatten(x);
        b.linear("fc", x, 2);
        b.finish().unwrap()
    }

    #[test]
    fn element_wise_layers_write_over_their_input() {
        let graph = graph(|b, x| {
            let x = b.conv("conv", x, 8, 1, 1);
            let x = b.batch_norm("bn", x);
            b.relu(x)
        });
        // eight channels are 128 bytes: the convolution holds them and the image, the pool them and eight means
        assert_eq!(graph.peak_activation_bytes(), 128 + 8 * 4);
        // weights, four values a channel of the norm, and the classifier with its bias
        assert_eq!(graph.weight_bytes(), 4 * (8 + 4 * 8 + 2 * 8 + 2));
    }

    #[test]
    fn a_shortcut_lives_as_long_as_the_branch_beside_it() {
        let residual = graph(|b, x| {
            let x = b.conv("stem", x, 8, 1, 1);
            let y = b.conv("conv1", x, 2, 1, 1);
            let y = b.relu(y);
            let y = b.conv("conv2", y, 8, 1, 1);
            b.add(y, x)
        });
        // during conv2: the shortcut, its own input of two channels, and its output; the sum then takes no more
        assert_eq!(residual.peak_activation_bytes(), 128 + 32 + 128);

        let plain = graph(|b, x| {
            let x = b.conv("stem", x, 8, 1, 1);
            let y = b.conv("conv1", x, 2, 1, 1);
            let y = b.relu(y);
            b.conv("conv2", y, 8, 1, 1)
        });
        assert_eq!(plain.peak_activation_bytes(), 128 + 32);
    }

    #[test]
    fn what_is_read_later_is_not_written_over() {
        // the activation is a new value, for the shortcut is what comes before it; and the branches that are joined
        // live until they have been copied
        let joined = graph(|b, x| {
            let x = b.conv("stem", x, 8, 1, 1);
            let y = b.relu(x);
            b.concat(&[x, y])
        });
        assert_eq!(joined.peak_activation_bytes(), 128 + 128 + 256);
        // a value read twice by one layer is one value
        let doubled = graph(|b, x| {
            let x = b.conv("stem", x, 8, 1, 1);
            b.add(x, x)
        });
        assert_eq!(doubled.peak_activation_bytes(), 128 + 32);
    }
}
