//! `resnetd compare`: what networks cost and what they are worth, side by side.
//!
//! Sizes and operations are derived from the graphs, speed is measured here and now with generated weights, accuracy is
//! what the published weights' authors state. The figures go out as a table, CSV or JSON, and as a picture; what --json
//! printed can be read back to draw it again.

mod accuracy;
mod measure;
mod plot;
mod table;

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use self::accuracy::{Accuracies, Accuracy};
use self::measure::{Latency, Speed, Throughput};
use crate::config::CompareArgs;
use crate::families::{self, Architecture};

/// Networks on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Comparison {
    machine: Machine,
    models: Vec<Row>,
}

/// What computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Machine {
    engine: String,
    precision: String,
    isa: String,
    device: String,
    threads: usize,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            engine,
            precision,
            isa,
            device,
            threads,
        } = self;
        write!(
            f,
            "{engine} engine, {precision}, {isa} on {device}, {threads} threads"
        )
    }
}

/// One network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    name: String,
    family: String,
    year: u16,
    depth: usize,
    /// Side of the input image in pixels.
    input: usize,
    classes: usize,
    parameters: u64,
    gmacs: f64,
    /// In f32, as [`crate::ir::Graph::weight_bytes`] counts them.
    weight_bytes: u64,
    /// At batch 1 in f32, as [`crate::ir::Graph::peak_activation_bytes`] counts them.
    peak_activation_bytes: u64,
    /// At batch 1.
    latency_ms: Latency,
    throughput: Throughput,
    /// Throughput over the cost of one image.
    images_per_second_per_gmac: f64,
    accuracy: Option<Accuracy>,
}

pub(super) fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<()> {
    // what is wrong with the flags is said before the time is spent
    let format = args.plot.as_deref().map(plot::Format::of).transpose()?;
    let comparison = match &args.from {
        Some(path) => read(path, &args.names)?,
        None => measured(args)?,
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &comparison)?;
        writeln!(out)?;
    } else if args.csv {
        table::write_csv(out, &comparison)?;
    } else {
        table::write(out, &comparison)?;
    }
    match (&args.plot, format) {
        (Some(path), Some(format)) => {
            let picture = plot::draw(&comparison, format)?;
            std::fs::write(path, picture)
                .with_context(|| format!("cannot write {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What --json printed to `path`, of the models wanted.
fn read(path: &Path, wanted: &[String]) -> Result<Comparison> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut comparison: Comparison = serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("{} is not what `compare --json` prints", path.display()))?;
    comparison.models = choose(comparison.models, |row| &row.name, wanted)?;
    Ok(comparison)
}

/// Measures one model after the other, each freed before the next.
fn measured(args: &CompareArgs) -> Result<Comparison> {
    let seconds = Duration::try_from_secs_f64(args.seconds)
        .context("--seconds must be a positive number of seconds")?;
    let architectures = choose(families::all().collect(), |a| a.name, &args.names)?;
    let pool = super::threads::pool(args.engine.threads())?;
    let options = args.engine.options(&pool);
    options.check_one()?;
    let accuracies = Accuracies::new(&args.engine.repository(&pool))?;
    let bar = ProgressBar::new(architectures.len() as u64).with_style(style()?);
    let mut models = Vec::with_capacity(architectures.len());
    let mut machine = None;
    for architecture in architectures {
        bar.set_message(architecture.name);
        bar.tick();
        let graph = architecture.default_graph().map_err(Error::msg)?;
        let speed = measure::measure(&graph.into(), &options, seconds)
            .with_context(|| format!("cannot measure {}", architecture.name))?;
        models.push(Row::new(architecture, &speed, &accuracies)?);
        machine.get_or_insert(Machine {
            engine: speed.engine.engine.to_owned(),
            precision: speed.engine.precision.to_owned(),
            isa: speed.engine.isa.to_owned(),
            device: speed.engine.device,
            threads: args.engine.threads().get(),
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    let machine = machine.context("there is nothing to compare")?;
    Ok(Comparison { machine, models })
}

fn style() -> Result<ProgressStyle> {
    let template = "{bar:40} {pos}/{len} {msg} {elapsed}";
    ProgressStyle::with_template(template).context("the progress bar's template")
}

impl Row {
    fn new(
        architecture: &'static Architecture,
        speed: &Speed,
        accuracies: &Accuracies,
    ) -> Result<Self> {
        let graph = architecture.default_graph().map_err(Error::msg)?;
        let counts = graph.counts();
        let gmacs = counts.macs as f64 / 1e9;
        let Speed {
            latency,
            throughput,
            ..
        } = *speed;
        Ok(Self {
            name: architecture.name.to_owned(),
            family: architecture.family.to_owned(),
            year: architecture.year,
            depth: architecture.depth,
            input: architecture.input_size,
            classes: architecture.classes,
            parameters: counts.parameters,
            gmacs,
            weight_bytes: graph.weight_bytes(),
            peak_activation_bytes: graph.peak_activation_bytes(),
            latency_ms: Latency {
                p50: significant(latency.p50),
                p99: significant(latency.p99),
                ..latency
            },
            throughput: Throughput {
                images_per_second: significant(throughput.images_per_second),
                ..throughput
            },
            images_per_second_per_gmac: significant(throughput.images_per_second / gmacs),
            accuracy: accuracies.of(architecture),
        })
    }

    /// Whether its classes are ImageNet's; accuracies on other data sets are no measure beside it.
    fn is_imagenet(&self) -> bool {
        self.classes == 1000
    }
}

/// The number in six digits: no measurement has more, and in JSON so few read back as what they were.
fn significant(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
}

/// Those of `all` whose names one of the patterns fits, in their order; all of them where there is no pattern.
///
/// # Errors
/// Names the pattern that fits none.
fn choose<T>(all: Vec<T>, name: impl Fn(&T) -> &str, patterns: &[String]) -> Result<Vec<T>> {
    for pattern in patterns {
        if !all.iter().any(|item| fits(pattern, name(item))) {
            anyhow::bail!(
                "there is no architecture {pattern:?} to compare; `resnetd models` lists those there are"
            );
        }
    }
    let wanted = |item: &T| patterns.is_empty() || patterns.iter().any(|p| fits(p, name(item)));
    Ok(all.into_iter().filter(wanted).collect())
}

/// Whether `name` is `pattern`, whose asterisks stand for any text.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| fits(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests;
