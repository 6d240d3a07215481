//! How fast a network runs here: latency at batch 1, and throughput at the best batch, with generated weights.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::commands::timing::{Effort, SEED, Times};
use crate::engine::{EngineInfo, EngineOptions, give_back, select_one};
use crate::ir::Graph;
use crate::weights::{Generator, Parameters};

/// Batches tried for throughput.
const BATCHES: [usize; 5] = [2, 4, 8, 16, 32];
/// Fewest batches measured, for latency and for throughput at each batch.
const LATENCY_BATCHES: usize = 10;
const THROUGHPUT_BATCHES: usize = 2;
/// Larger batches are not tried once throughput is below this share of the best.
const CLEARLY_LESS: f64 = 0.9;

/// Percentiles in milliseconds, of so many batches: of fewer than 100, p99 is the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) batches: usize,
}

/// Images a second at the median, at the batch where they are most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Throughput {
    pub(super) images_per_second: f64,
    pub(super) batch: usize,
}

pub(super) struct Speed {
    pub(super) latency: Latency,
    pub(super) throughput: Throughput,
    pub(super) engine: EngineInfo,
}

/// Measures latency for `time`, then throughput at the larger batches for about as long in all.
///
/// # Errors
/// When the engine cannot be made or fails.
pub(super) fn measure(
    graph: &Arc<Graph>,
    options: &EngineOptions,
    time: Duration,
) -> Result<Speed> {
    // the memory of the model before is this one's
    give_back();
    let parameters = Parameters::load(graph, &Generator::new(graph, SEED, [0.5, 0.9]))?;
    let mut engine = select_one(graph, parameters, options)?;
    let (pixels, classes) = (graph.input().elements(), graph.classes());
    let input = Generator::input(SEED, BATCHES[BATCHES.len() - 1], graph.input());
    let mut logits = vec![0.0; BATCHES[BATCHES.len() - 1] * classes];
    let mut times = |batch: usize, effort: Effort| {
        let input = &input[..batch * pixels];
        let logits = &mut logits[..batch * classes];
        Times::measure(engine.as_mut(), batch, input, logits, effort)
    };

    let effort = Effort {
        warmup: 2,
        time,
        batches: LATENCY_BATCHES,
    };
    let single = times(1, effort)?;
    let mut throughput = Throughput {
        images_per_second: single.images_per_second(1),
        batch: 1,
    };
    let effort = Effort {
        warmup: 1,
        time: time / BATCHES.len() as u32,
        batches: THROUGHPUT_BATCHES,
    };
    for batch in BATCHES {
        let images_per_second = times(batch, effort)?.images_per_second(batch);
        if images_per_second > throughput.images_per_second {
            throughput = Throughput {
                images_per_second,
                batch,
            };
        } else if images_per_second < CLEARLY_LESS * throughput.images_per_second {
            break;
        }
    }
    Ok(Speed {
        latency: Latency {
            p50: single.percentile_ms(50),
            p99: single.percentile_ms(99),
            batches: single.batches(),
        },
        throughput,
        engine: engine.info().clone(),
    })
}
