//! Measures which algorithm is the fastest for each convolution that has a choice, and writes the lines of the table
//! that [`super::choose`] reads.
//!
//! Weights are measured cold and inputs warm, as a network has them: before each run, memory larger than the second-level
//! caches passes through all threads, as the other layers' weights would, and an element-wise layer writes the input.

use std::collections::BTreeMap;
use std::time::Instant;

use super::choose::{Choice, Key};
use super::lower;
use crate::engine::EngineError;
use crate::engine::passes::LayerOp;
use crate::ir::{Graph, Shape};
use crate::kernels::{
    Algorithm, Buffer, Conv, ConvCall, ConvParts, ConvSpec, Epilogue, Layout, Map, Misfit, Threads,
    Token,
};
use crate::weights::Parameters;

/// Batches that lines can begin with, and runs of each.
const BATCHES: [usize; 4] = [1, 2, 4, 8];
const RUNS: usize = 31;

/// A second packing must save so much of some batch's time, as it costs memory for ever.
const WORTHWHILE: f64 = 0.1;

/// Values read, and as many written, to put weights out of the second-level caches.
const SWEPT: usize = 8 << 20;

/// Seconds for each of [`BATCHES`].
type Times = [f64; BATCHES.len()];

/// Times every algorithm on each distinct convolution of a network that has a choice; returns the table's lines.
///
/// # Errors
/// When a parameter is missing.
pub fn tune(
    graph: &Graph,
    parameters: Parameters,
    token: Token,
    threads: &dyn Threads,
) -> Result<Vec<String>, EngineError> {
    lines(graph, parameters, &Bench::new(token, threads, SWEPT)?)
}

fn lines(
    graph: &Graph,
    mut parameters: Parameters,
    bench: &Bench<'_>,
) -> Result<Vec<String>, EngineError> {
    let layers = lower(graph, &mut parameters)?;
    let mut found = BTreeMap::new();
    for layer in &layers {
        let LayerOp::Conv { spec, weights } = &layer.op else {
            continue;
        };
        let from = layers[layer.inputs[0]].shape;
        if from.channels < bench.token.lanes() {
            continue;
        }
        let Some(key) = Key::new(bench.token, spec, from, bench.token.lanes()) else {
            continue;
        };
        if found.contains_key(&key) {
            continue;
        }
        let mut times = Vec::new();
        for algorithm in Algorithm::ALL.into_iter().filter(|a| a.supports(spec)) {
            let time = bench.times(algorithm, spec, weights, (from, layer.shape));
            times.push((algorithm, time.map_err(misfit)?));
        }
        found.insert(key, best(&times));
    }
    let line = |key: &Key, choice: &Choice| {
        let Choice { from, algorithm } = choice;
        format!("{key} {from} {}", algorithm.name())
    };
    let lines = found
        .iter()
        .flat_map(|(key, choices)| choices.iter().map(move |choice| line(key, choice)));
    Ok(lines.collect())
}

fn misfit(error: Misfit) -> EngineError {
    EngineError::Device(error.to_string())
}

/// One algorithm, or two where the second is worth its memory. Batches weigh alike: what counts is the product of their
/// times.
fn best(times: &[(Algorithm, Times)]) -> Vec<Choice> {
    let fastest = |from: usize, to: usize| {
        let product = |times: &Times| times[from..to].iter().product::<f64>();
        times
            .iter()
            .min_by(|a, b| product(&a.1).total_cmp(&product(&b.1)))
    };
    let Some((single, single_times)) = fastest(0, BATCHES.len()) else {
        return Vec::new();
    };
    let mut choices = vec![Choice {
        from: 1,
        algorithm: *single,
    }];
    let mut least: f64 = single_times.iter().product();
    for split in 1..BATCHES.len() {
        let (Some(small), Some(large)) = (fastest(0, split), fastest(split, BATCHES.len())) else {
            continue;
        };
        let mut mixed = small.1;
        mixed[split..].copy_from_slice(&large.1[split..]);
        let product: f64 = mixed.iter().product();
        let saves = |(mixed, single): (&f64, &f64)| *mixed < (1.0 - WORTHWHILE) * single;
        if product < least && mixed.iter().zip(single_times).any(saves) {
            least = product;
            choices = vec![
                Choice {
                    from: 1,
                    algorithm: small.0,
                },
                Choice {
                    from: BATCHES[split],
                    algorithm: large.0,
                },
            ];
        }
    }
    choices
}

/// What measures.
struct Bench<'a> {
    token: Token,
    threads: &'a dyn Threads,
    /// An element-wise layer and its input, which together displace what the caches hold.
    sweep: Map,
    swept: Buffer,
}

impl<'a> Bench<'a> {
    fn new(token: Token, threads: &'a dyn Threads, swept: usize) -> Result<Self, EngineError> {
        const WIDTH: usize = 1 << 10;
        let lanes = token.lanes();
        let layout = blocked(
            Shape::new(lanes, (swept / lanes / WIDTH).max(1), WIDTH),
            token,
            0,
        );
        Ok(Self {
            token,
            threads,
            sweep: copy(layout, token).map_err(misfit)?,
            swept: Buffer::zeroed(layout.image()),
        })
    }

    /// Median seconds of one convolution, input and output of these shapes.
    fn times(
        &self,
        algorithm: Algorithm,
        spec: &ConvSpec,
        weights: &[f32],
        (from, to): (Shape, Shape),
    ) -> Result<Times, Misfit> {
        let (from, to) = (blocked(from, self.token, 1), blocked(to, self.token, 1));
        let conv = Conv::new(ConvParts {
            token: self.token,
            algorithm,
            spec: *spec,
            input: from,
            output: to,
            weights,
            epilogue: Epilogue::default(),
        })?;
        let before = copy(from, self.token)?;
        Ok(BATCHES.map(|batch| self.time(&conv, &before, batch, (from, to))))
    }

    fn time(&self, conv: &Conv, before: &Map, batch: usize, (from, to): (Layout, Layout)) -> f64 {
        let mut source = Buffer::zeroed(batch * from.image());
        for (i, value) in source.iter_mut().enumerate() {
            *value = (i % 13) as f32 / 13.0;
        }
        let mut input = Buffer::zeroed(source.len());
        let mut output = Buffer::zeroed(batch * to.image());
        let mut elsewhere = Buffer::zeroed(self.swept.len());
        let mut times = [0.0; RUNS];
        for time in &mut times {
            self.sweep
                .run(self.threads, 1, &self.swept, &[], &mut elsewhere);
            before.run(self.threads, batch, &source, &[], &mut input);
            let call = ConvCall {
                batch,
                input: &input,
                added: &[],
            };
            let start = Instant::now();
            conv.run(self.threads, call, &mut output);
            *time = start.elapsed().as_secs_f64();
        }
        times.sort_unstable_by(f64::total_cmp);
        times[RUNS / 2]
    }
}

fn blocked(shape: Shape, token: Token, border: usize) -> Layout {
    Layout {
        channels: shape.channels,
        height: shape.height,
        width: shape.width,
        element: token.element(),
        lanes: token.lanes(),
        border,
        gap: 0,
    }
}

/// An element-wise layer that changes nothing.
fn copy(layout: Layout, token: Token) -> Result<Map, Misfit> {
    Map::new(token, layout, layout, 1, Epilogue::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuning_writes_lines_for_what_has_a_choice() {
        let (mut b, x) = crate::ir::Builder::new(Shape::new(16, 6, 6));
        let x = b.conv("a", x, 16, 3, 1);
        let x = b.conv("b", x, 32, 3, 2);
        let x = b.conv("c", x, 32, 3, 1);
        b.conv("d", x, 32, 3, 1);
        let graph = b.finish().expect("a graph");
        let source = crate::weights::Generator::new(&graph, 3, [0.5, 0.9]);
        let parameters = Parameters::load(&graph, &source).expect("generated weights");
        let token = Token::detect(None);
        let bench = Bench::new(token, &crate::kernels::Serial, 1).expect("a bench");
        let lines = lines(&graph, parameters, &bench).expect("lines");
        let isa = token.isa();
        let smallest: Vec<&str> = lines
            .iter()
            .filter_map(|line| Some(line.split_once(" 1 ")?.0))
            .collect();
        assert_eq!(
            smallest,
            [format!("{isa} 16->16 6x6"), format!("{isa} 32->32 3x3")]
        );
    }

    #[test]
    fn a_second_algorithm_must_be_worth_it() {
        let choices = |direct, winograd| {
            best(&[
                (Algorithm::Direct, direct),
                (Algorithm::Winograd4, winograd),
            ])
            .iter()
            .map(|c| (c.from, c.algorithm))
            .collect::<Vec<_>>()
        };
        let (direct, winograd) = ((1, Algorithm::Direct), |from| (from, Algorithm::Winograd4));
        let two = choices([1.0, 2.0, 4.0, 8.0], [3.0, 3.1, 3.2, 4.0]);
        assert_eq!(two, [direct, winograd(4)]);
        let little = choices([1.0, 2.0, 4.0, 8.0], [2.0, 3.0, 4.0, 7.9]);
        assert_eq!(little, [direct]);
        let always = choices([1.0, 2.0, 4.0, 8.0], [0.9, 1.0, 2.0, 4.0]);
        assert_eq!(always, [winograd(1)]);
    }
}
