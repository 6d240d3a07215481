//! `resnetd classify`: files in, predictions out.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, bail};
use futures_util::StreamExt;
use serde_json::json;

use super::local::{IN_FLIGHT, Local, runtime};
use crate::config::ClassifyArgs;
use crate::service::{Error, Prediction};

pub(super) fn run(args: &ClassifyArgs, out: &mut dyn Write) -> Result<()> {
    let local = Local::new(&args.models, &args.engine, &args.images)?;
    let failed = runtime()?.block_on(async {
        let mut answers = futures_util::stream::iter(&args.files)
            .map(async |file| (file, local.classify(file, usize::from(args.top_k)).await))
            .buffered(IN_FLIGHT);
        let mut failed = 0;
        while let Some((file, answer)) = answers.next().await {
            failed += usize::from(answer.is_err());
            print(out, file, &answer, args.json)?;
        }
        io::Result::Ok(failed)
    })?;
    if failed > 0 {
        bail!(
            "{failed} of {} files could not be classified",
            args.files.len()
        );
    }
    Ok(())
}

fn print(
    out: &mut dyn Write,
    file: &Path,
    answer: &Result<Vec<Prediction>, Error>,
    json: bool,
) -> io::Result<()> {
    let file = file.display().to_string();
    match answer {
        Ok(predictions) if json => {
            let list: Vec<_> = predictions
                .iter()
                .map(
                    |p| json!({ "class": p.class, "label": p.label, "probability": p.probability }),
                )
                .collect();
            writeln!(out, "{}", json!({ "file": file, "predictions": list }))
        }
        Err(error) if json => {
            let (error, code) = (&error.message, error.code.as_str());
            writeln!(
                out,
                "{}",
                json!({ "file": file, "error": error, "code": code })
            )
        }
        Ok(predictions) => {
            writeln!(out, "{file}")?;
            predictions
                .iter()
                .try_for_each(|p| writeln!(out, "  {:>6.2} %  {}", p.probability * 100.0, p.label))
        }
        Err(error) => writeln!(out, "{file}\n  {error}"),
    }
}
