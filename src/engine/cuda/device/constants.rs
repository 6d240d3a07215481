//! Everything a network's layers read and never write (weights, biases, windows of pools), in one allocation.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use half::{bf16, f16};

use super::driver::{Context, room};
use super::launch::Element;
use crate::engine::EngineError;

/// Where a list begins; every list does so at a multiple of 256 bytes, as copies and tensor cores like it.
const ALIGNED: usize = 256;

/// A list among the constants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constant(usize);

/// Lists on their way to the card.
#[derive(Debug, Default)]
pub(super) struct Packing {
    bytes: Vec<u8>,
}

/// Lists on the card.
#[derive(Debug)]
pub(super) struct Constants {
    memory: CudaSlice<u8>,
    base: u64,
}

impl Packing {
    fn push(&mut self, bytes: impl Iterator<Item = u8>) -> Constant {
        let start = self.bytes.len().next_multiple_of(ALIGNED);
        self.bytes.resize(start, 0);
        self.bytes.extend(bytes);
        Constant(start)
    }

    pub(super) fn floats(&mut self, values: &[f32]) -> Constant {
        self.push(values.iter().flat_map(|value| value.to_ne_bytes()))
    }

    pub(super) fn integers(&mut self, values: &[[i32; 3]]) -> Constant {
        self.push(
            values
                .as_flattened()
                .iter()
                .flat_map(|value| value.to_ne_bytes()),
        )
    }

    /// Values as activations are stored.
    ///
    /// # Errors
    /// When one is beyond what the element holds.
    pub(super) fn elements(
        &mut self,
        name: &str,
        values: &[f32],
        element: Element,
    ) -> Result<Constant, EngineError> {
        let beyond = |value: &&f32| match element {
            Element::F32 => false,
            Element::F16 => f16::from_f32(**value).is_infinite(),
            Element::Bf16 => bf16::from_f32(**value).is_infinite(),
        };
        if let Some(value) = values.iter().find(beyond) {
            let wider = match element {
                Element::F16 => "bf16 or f32",
                Element::F32 | Element::Bf16 => "f32",
            };
            return Err(EngineError::Unavailable(format!(
                "layer {name} has a weight of {value}, which {element:?} cannot hold; use --precision {wider}"
            )));
        }
        Ok(match element {
            Element::F32 => self.floats(values),
            Element::F16 => self.push(values.iter().flat_map(|v| f16::from_f32(*v).to_ne_bytes())),
            Element::Bf16 => {
                self.push(values.iter().flat_map(|v| bf16::from_f32(*v).to_ne_bytes()))
            }
        })
    }

    /// # Errors
    /// When the card has no room for them.
    pub(super) fn upload(self, stream: &Arc<CudaStream>) -> Result<Constants, EngineError> {
        let mib = self.bytes.len() as f64 / f64::from(1 << 20);
        let room = room(stream.context());
        let what = || format!("the model needs {mib:.0} MiB for its weights; {room}");
        let memory = stream.clone_htod(&self.bytes).context(what)?;
        // the host's copy goes before the transfer may have ended
        stream.synchronize().context(what)?;
        let (base, _) = memory.device_ptr(stream);
        Ok(Constants { base, memory })
    }
}

impl Constants {
    pub(super) fn address(&self, constant: Constant) -> u64 {
        self.base + constant.0 as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.num_bytes()
    }
}
