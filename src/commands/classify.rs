//! `resnetd classify`: files in, predictions out.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use futures_util::StreamExt;
use serde::Serialize;

use super::local::{IN_FLIGHT, Local, runtime};
use crate::config::ClassifyArgs;
use crate::service::{Error, Prediction};

pub(super) fn run(args: &ClassifyArgs, out: &mut dyn Write) -> Result<()> {
    let local = Local::new(&args.local)?;
    let failed = runtime()?.block_on(async {
        let mut answers = futures_util::stream::iter(&args.files)
            .map(async |file| (file, local.classify(file, usize::from(args.top_k)).await))
            .buffered(IN_FLIGHT);
        let mut failed = 0;
        while let Some((file, answer)) = answers.next().await {
            failed += usize::from(answer.is_err());
            print(out, file, &answer, args.json)?;
        }
        Result::<_>::Ok(failed)
    })?;
    if failed > 0 {
        bail!(
            "{failed} of {} files could not be classified",
            args.files.len()
        );
    }
    Ok(())
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    file: String,
    #[serde(flatten)]
    answer: Answer<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Good { predictions: Vec<Class<'a>> },
    Bad { error: &'a str, code: &'static str },
}

#[derive(Serialize)]
struct Class<'a> {
    class: usize,
    label: &'a str,
    probability: f32,
}

impl<'a> From<&'a Result<Vec<Prediction>, Error>> for Answer<'a> {
    fn from(answer: &'a Result<Vec<Prediction>, Error>) -> Self {
        let class = |p: &'a Prediction| Class {
            class: p.class,
            label: &p.label,
            probability: p.probability,
        };
        match answer {
            Ok(predictions) => Self::Good {
                predictions: predictions.iter().map(class).collect(),
            },
            Err(error) => Self::Bad {
                error: &error.message,
                code: error.code.as_str(),
            },
        }
    }
}

fn print(
    out: &mut dyn Write,
    file: &Path,
    answer: &Result<Vec<Prediction>, Error>,
    json: bool,
) -> Result<()> {
    let name = file.display().to_string();
    if json {
        let line = Line {
            file: name,
            answer: answer.into(),
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
        return Ok(());
    }
    writeln!(out, "{name}")?;
    match answer {
        Ok(predictions) => {
            for p in predictions {
                writeln!(out, "  {:>6.2} %  {}", p.probability * 100.0, p.label)?;
            }
        }
        Err(error) => writeln!(out, "  {error}")?,
    }
    Ok(())
}
