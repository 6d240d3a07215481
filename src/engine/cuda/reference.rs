//! The plan on the CPU, in plain loops and f32: what its steps mean, and what the engine on a card is held to.

use std::sync::Arc;

use crate::engine::{Engine, EngineError, EngineInfo, check_lengths};
use crate::ir::{Graph, Shape};
use crate::kernels::{PoolSpec, Reduce};
use crate::weights::Parameters;

use super::plan::{Conv, Logits, Operation, Plan, Step, StepOp, Tensor};

/// Channels that the image is padded to, as for 16-bit values on a card.
const IMAGE_CHANNELS: usize = 8;

/// The plan of the fused CUDA engine without a card: right, and slow.
#[derive(Debug)]
pub struct CudaReference {
    plan: Plan,
    graph: Arc<Graph>,
    info: EngineInfo,
}

impl CudaReference {
    /// # Errors
    /// When a parameter is missing, or the plan has no place for the graph.
    pub fn new(graph: &Arc<Graph>, parameters: Parameters) -> Result<Self, EngineError> {
        Ok(Self {
            plan: Plan::new(graph, parameters, IMAGE_CHANNELS)?,
            graph: Arc::clone(graph),
            info: EngineInfo {
                engine: "reference",
                precision: "f32",
                isa: "portable",
                device: "cpu".to_owned(),
            },
        })
    }
}

impl Engine for CudaReference {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        check_lengths(&self.graph, batch, input, logits)?;
        logits.copy_from_slice(&run(&self.plan, batch, input));
        Ok(())
    }
}

/// Runs a plan on `[batch, c, h, w]`.
fn run(plan: &Plan, batch: usize, input: &[f32]) -> Vec<f32> {
    let mut machine = Machine {
        batch,
        // what is read before it is written shows in the logits
        arena: vec![f32::NAN; plan.arena * batch],
        logits: Vec::new(),
    };
    machine.image(&plan.image, input);
    for (index, step) in plan.steps.iter().enumerate() {
        let last = index + 1 == plan.steps.len();
        let to_logits = last && plan.logits == Logits::Product;
        match &step.op {
            StepOp::Conv(conv) => machine.conv(step, conv, to_logits),
            StepOp::Pool(spec) => machine.pool(step, spec),
            StepOp::Map { stride, operations } => machine.map(step, *stride, operations),
        }
    }
    if let Logits::Value(tensor) = plan.logits {
        for n in 0..batch {
            for c in 0..tensor.shape.channels {
                let value = machine.read(&tensor, [n, 0, 0, c]);
                machine.logits.push(value);
            }
        }
    }
    machine.logits
}

struct Machine {
    batch: usize,
    arena: Vec<f32>,
    logits: Vec<f32>,
}

impl Machine {
    fn place(&self, tensor: &Tensor, [n, y, x, c]: [usize; 4]) -> usize {
        let Shape {
            channels,
            height,
            width,
        } = tensor.shape;
        assert!(n < self.batch && y < height && x < width && c < channels);
        tensor.offset(self.batch) + ((n * height + y) * width + x) * tensor.pitch + c
    }

    fn read(&self, tensor: &Tensor, at: [usize; 4]) -> f32 {
        self.arena[self.place(tensor, at)]
    }

    /// Writes what `value` gives at each place of an image.
    fn write(&mut self, tensor: &Tensor, value: impl Fn(&Self, [usize; 4]) -> f32) {
        let Shape {
            channels,
            height,
            width,
        } = tensor.shape;
        for n in 0..self.batch {
            for y in 0..height {
                for x in 0..width {
                    for c in 0..channels {
                        let value = value(self, [n, y, x, c]);
                        let place = self.place(tensor, [n, y, x, c]);
                        self.arena[place] = value;
                    }
                }
            }
        }
    }

    fn image(&mut self, to: &Tensor, input: &[f32]) {
        let Shape { height, width, .. } = to.shape;
        let planes = input.len() / (self.batch * height * width);
        self.write(to, |_, [n, y, x, c]| match c < planes {
            true => input[((n * planes + c) * height + y) * width + x],
            false => 0.0,
        });
    }

    fn conv(&mut self, step: &Step, conv: &Conv, to_logits: bool) {
        let Step { input, output, .. } = step;
        let outs = output.shape.channels;
        let group = input.shape.channels / conv.groups;
        let per_filter = conv.weights.len() / outs;
        assert_eq!(per_filter, conv.kernel.0 * conv.kernel.1 * group);
        let value = |this: &Self, [n, y, x, k]: [usize; 4]| {
            let filter = &conv.weights[k * per_filter..][..per_filter];
            let first = k / (outs / conv.groups) * group;
            let mut sum = conv.bias[k];
            for r in 0..conv.kernel.0 {
                for s in 0..conv.kernel.1 {
                    let row = (y * conv.stride + r).wrapping_sub(conv.padding.0);
                    let column = (x * conv.stride + s).wrapping_sub(conv.padding.1);
                    if row >= input.shape.height || column >= input.shape.width {
                        continue;
                    }
                    let pixel = this.place(input, [n, row, column, first]);
                    let pixel = &this.arena[pixel..pixel + group];
                    let weights = &filter[(r * conv.kernel.1 + s) * group..][..group];
                    sum += pixel.iter().zip(weights).map(|(a, b)| a * b).sum::<f32>();
                }
            }
            if let Some(residual) = &conv.residual {
                sum += this.read(residual, [n, y, x, k]);
            }
            if conv.relu { sum.max(0.0) } else { sum }
        };
        if to_logits {
            let logits = (0..self.batch * outs).map(|i| value(self, [i / outs, 0, 0, i % outs]));
            self.logits = logits.collect();
        } else {
            self.write(output, value);
        }
    }

    fn pool(&mut self, step: &Step, spec: &PoolSpec) {
        let Step { input, output, .. } = step;
        self.write(output, |this, [n, y, x, c]| {
            let (rows, columns) = (spec.rows[y], spec.columns[x]);
            let pixels = (rows.from..rows.to)
                .flat_map(|row| (columns.from..columns.to).map(move |column| (row, column)));
            let values = pixels.map(|(row, column)| this.read(input, [n, row, column, c]));
            match spec.reduce {
                Reduce::Max => values.fold(f32::NEG_INFINITY, f32::max),
                Reduce::Average => values.sum::<f32>() / (rows.counted * columns.counted) as f32,
            }
        });
    }

    fn map(&mut self, step: &Step, stride: usize, operations: &[Operation]) {
        let Step { input, output, .. } = step;
        assert_eq!(output.shape.height, input.shape.height.div_ceil(stride));
        self.write(output, |this, [n, y, x, c]| {
            let mut value = match c < input.shape.channels {
                true => this.read(input, [n, y * stride, x * stride, c]),
                false => 0.0,
            };
            for operation in operations {
                value = match operation {
                    Operation::Bias(bias) => value + bias[c],
                    Operation::Affine { scale, shift } => value * scale[c] + shift[c],
                    Operation::Add(added) => value + this.read(added, [n, y, x, c]),
                    Operation::Scale(factor) => value * factor,
                    Operation::Relu => value.max(0.0),
                };
            }
            value
        });
    }
}
