//! Runs a plan: layer by layer, each on all threads, between buffers that are kept from batch to batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::place::Place;
use super::plan::{Kernel, Plan, Step};
use crate::engine::{Engine, EngineError, EngineInfo, LayerProfile};
use crate::ir::Graph;
use crate::kernels::{
    Buffer, ConvCall, Element, Layout, Part, Serial, Threads, Token, concat, flatten, from_planes,
    to_planes,
};
use crate::pool::Pool;
use crate::weights::Parameters;

/// A network on the CPU.
#[derive(Debug)]
pub struct FusedEngine {
    graph: Arc<Graph>,
    plan: Plan,
    threads: Option<Arc<Pool>>,
    buffers: Vec<Buffer>,
    info: EngineInfo,
}

impl FusedEngine {
    /// Plans the network for the instruction set of `token`; without a pool it runs on its caller's thread alone.
    ///
    /// # Errors
    /// When a parameter is missing or the graph's shapes contradict each other.
    pub fn new(
        graph: &Arc<Graph>,
        parameters: Parameters,
        token: Token,
        threads: Option<Arc<Pool>>,
    ) -> Result<Self, EngineError> {
        let plan = Plan::new(graph, parameters, token)?;
        Ok(Self {
            buffers: plan.buffers.iter().map(|_| Buffer::default()).collect(),
            graph: Arc::clone(graph),
            plan,
            threads,
            info: EngineInfo {
                engine: "fused",
                precision: match token.element() {
                    Element::F32 => "f32",
                    Element::Bf16 => "bf16",
                },
                isa: token.isa().name(),
                device: "cpu".into(),
            },
        })
    }

    /// Runs one batch; `after` hears of every layer and the time it took.
    fn run(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
        mut after: impl FnMut(&Step, Duration),
    ) -> Result<(), EngineError> {
        super::super::check_lengths(&self.graph, batch, input, logits)?;
        for (buffer, &image) in self.buffers.iter_mut().zip(&self.plan.buffers) {
            if buffer.len() < batch * image {
                *buffer = Buffer::zeroed((batch * image).max(Buffer::HUGE));
            }
        }
        let threads: &dyn Threads = match &self.threads {
            Some(pool) => pool.as_ref(),
            None => &Serial,
        };
        for step in &self.plan.steps {
            let start = Instant::now();
            let target = step.output.buffer;
            // out of the list while it is written, so that the others can be read
            let mut output = std::mem::take(&mut self.buffers[target]);
            let call = Call {
                threads,
                batch,
                image: input,
                buffers: &self.buffers,
            };
            call.run(step, &mut output[step.output.offset..]);
            self.buffers[target] = output;
            after(step, start.elapsed());
        }
        if let Some(last) = self.plan.steps.last() {
            let Place { buffer, layout, .. } = last.output;
            to_planes(
                threads,
                &layout,
                batch,
                &self.buffers[buffer],
                self.graph.classes(),
                logits,
            );
        }
        Ok(())
    }
}

impl Engine for FusedEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn prepare(&mut self, max_batch: usize) -> Result<Vec<usize>, EngineError> {
        let buckets = self.plan.buckets().into_iter();
        Ok(buckets.take_while(|&from| from <= max_batch).collect())
    }

    fn forward(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<(), EngineError> {
        self.run(batch, input, logits, |_, _| ())
    }

    fn profile(
        &mut self,
        batch: usize,
        input: &[f32],
        logits: &mut [f32],
    ) -> Result<Vec<LayerProfile>, EngineError> {
        let mut layers = Vec::with_capacity(self.plan.steps.len());
        self.run(batch, input, logits, |step, time| {
            let Layout {
                channels,
                height,
                width,
                ..
            } = step.output.layout;
            layers.push(LayerProfile {
                name: step.name.clone(),
                algorithm: step.kernel.name(batch),
                output: [channels, height, width],
                macs: (step.macs * batch) as u64,
                weights: step.kernel.weights() * size_of::<f32>(),
                time,
            });
        })?;
        Ok(layers)
    }
}

/// What every layer of one batch needs.
struct Call<'a> {
    threads: &'a dyn Threads,
    batch: usize,
    /// The input, in planes.
    image: &'a [f32],
    buffers: &'a [Buffer],
}

impl Call<'_> {
    fn run(&self, step: &Step, output: &mut [f32]) {
        let (threads, batch) = (self.threads, self.batch);
        let data = |place: &Place| -> &[f32] { &self.buffers[place.buffer][place.offset..] };
        let to = &step.output.layout;
        let added: Vec<&[f32]> = step.added.iter().map(data).collect();
        match (&step.kernel, step.inputs.first()) {
            (Kernel::Image, _) => from_planes(threads, to, batch, self.image, output),
            (Kernel::Conv(conv), Some(input)) => {
                let call = ConvCall {
                    batch,
                    input: data(input),
                    added: &added,
                };
                conv.of(batch).run(threads, call, output);
            }
            (Kernel::Pool(pool), Some(input)) => pool.run(threads, batch, data(input), output),
            (Kernel::Map(map), Some(input)) => map.run(threads, batch, data(input), &added, output),
            (Kernel::Concat(firsts), _) => {
                let parts: Vec<Part<'_>> = firsts
                    .iter()
                    .zip(&step.inputs)
                    .map(|(&first, place)| Part {
                        first,
                        layout: place.layout,
                        data: data(place),
                    })
                    .collect();
                concat(threads, batch, &parts, to, output);
            }
            (Kernel::Flatten, Some(input)) => {
                flatten(threads, &input.layout, batch, data(input), to, output);
            }
            (Kernel::Conv(_) | Kernel::Pool(_) | Kernel::Map(_) | Kernel::Flatten, None) => {
                unreachable!("the plan gives every such layer an input")
            }
        }
    }
}
