//! `resnetd evaluate`: top-1 and top-5 accuracy over a folder of class folders.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};

use super::local::{IN_FLIGHT, Local, runtime};
use crate::config::EvaluateArgs;

/// A file and the class it should get.
struct Sample {
    file: PathBuf,
    class: usize,
}

#[derive(Default)]
struct Tally {
    images: usize,
    top1: usize,
    top5: usize,
    /// Could not be classified; counted as wrong.
    failed: usize,
}

pub(super) fn run(args: &EvaluateArgs, out: &mut dyn Write) -> Result<()> {
    let local = Local::new(&args.local)?;
    let samples = samples(&args.data, &local.model.labels)?;
    let bar = ProgressBar::new(samples.len() as u64).with_style(style()?);
    let started = Instant::now();
    let tally = runtime()?.block_on(async {
        let mut answers = futures_util::stream::iter(&samples)
            .map(async |sample| (sample, local.classify(&sample.file, 5).await))
            .buffer_unordered(IN_FLIGHT);
        let mut tally = Tally::default();
        while let Some((sample, answer)) = answers.next().await {
            tally.images += 1;
            match answer {
                Ok(predictions) => {
                    let place = predictions.iter().position(|p| p.class == sample.class);
                    tally.top1 += usize::from(place == Some(0));
                    tally.top5 += usize::from(place.is_some());
                }
                Err(error) => {
                    tally.failed += 1;
                    bar.suspend(|| eprintln!("{}: {error}", sample.file.display()));
                }
            }
            bar.set_message(format!("top-1 {:.2} %", percent(tally.top1, tally.images)));
            bar.inc(1);
        }
        tally
    });
    bar.finish_and_clear();
    let rate = tally.images as f64 / started.elapsed().as_secs_f64();
    report(out, args, &local.model.name, &tally, rate)
}

fn report(
    out: &mut dyn Write,
    args: &EvaluateArgs,
    model: &str,
    tally: &Tally,
    rate: f64,
) -> Result<()> {
    let Tally { images, failed, .. } = *tally;
    let (top1, top5) = (percent(tally.top1, images), percent(tally.top5, images));
    if args.json {
        let line = serde_json::json!({
            "model": model, "images": images, "failed": failed,
            "top1": top1, "top5": top5, "images_per_second": rate,
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{model}: top-1 {top1:.2} %, top-5 {top5:.2} % of {images} images ({rate:.0} images/s)"
    )?;
    if failed > 0 {
        writeln!(
            out,
            "{failed} images could not be classified and count as wrong"
        )?;
    }
    Ok(())
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn style() -> Result<ProgressStyle> {
    let template = "{bar:40} {pos}/{len} {msg} {per_sec} {eta}";
    ProgressStyle::with_template(template).context("the progress bar's template")
}

/// Every file below `data`, with the class of its folder: the label of that name, or, where no folder is named like a
/// label and there is one for each class, the class at the folder's place in alphabetical order.
fn samples(data: &Path, labels: &[String]) -> Result<Vec<Sample>> {
    let mut folders: Vec<PathBuf> = entries(data)?.into_iter().filter(|p| p.is_dir()).collect();
    folders.sort();
    if folders.is_empty() {
        bail!("{} holds no class folders", data.display());
    }
    let named: Vec<Option<usize>> = folders
        .iter()
        .map(|folder| {
            let name = folder.file_name()?.to_str()?;
            labels
                .iter()
                .position(|label| label.eq_ignore_ascii_case(name))
        })
        .collect();
    let in_order = named.iter().all(Option::is_none) && folders.len() == labels.len();
    let mut samples = Vec::new();
    for (place, (folder, class)) in folders.iter().zip(named).enumerate() {
        let class = class.or(in_order.then_some(place)).with_context(|| {
            format!(
                "{} is not named like one of the model's {} labels (such as {:?})",
                folder.display(),
                labels.len(),
                labels.first().map_or("", String::as_str),
            )
        })?;
        let mut files = entries(folder)?;
        files.sort();
        samples.extend(
            files
                .into_iter()
                .filter(|f| f.is_file())
                .map(|file| Sample { file, class }),
        );
    }
    if samples.is_empty() {
        bail!("the class folders of {} hold no files", data.display());
    }
    Ok(samples)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    list.map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("cannot read {}", dir.display()))
}
