//! `resnetd classify`: files in, predictions out.

use std::path::Path;

use anyhow::{Result, bail};
use futures_util::StreamExt;

use super::local::{IN_FLIGHT, Local, runtime};
use crate::config::ClassifyArgs;
use crate::service::{Error, Prediction};

pub(super) fn run(args: &ClassifyArgs) -> Result<()> {
    let local = Local::new(&args.models, &args.engine, &args.images)?;
    let failed = runtime()?.block_on(async {
        let mut answers = futures_util::stream::iter(&args.files)
            .map(async |file| (file, local.classify(file, usize::from(args.top_k)).await))
            .buffered(IN_FLIGHT);
        let mut failed = 0;
        while let Some((file, answer)) = answers.next().await {
            failed += usize::from(answer.is_err());
            print(file, &answer, args.json);
        }
        failed
    });
    if failed > 0 {
        bail!(
            "{failed} of {} files could not be classified",
            args.files.len()
        );
    }
    Ok(())
}

fn print(file: &Path, answer: &Result<Vec<Prediction>, Error>, json: bool) {
    let file = file.display();
    match answer {
        Ok(predictions) if json => {
            let list: Vec<_> = predictions
                .iter()
                .map(|p| serde_json::json!({ "class": p.class, "label": p.label, "probability": p.probability }))
                .collect();
            println!(
                "{}",
                serde_json::json!({ "file": file.to_string(), "predictions": list })
            );
        }
        Err(error) if json => {
            let (error, code) = (&error.message, error.code.as_str());
            println!(
                "{}",
                serde_json::json!({ "file": file.to_string(), "error": error, "code": code })
            );
        }
        Ok(predictions) => {
            println!("{file}");
            for p in predictions {
                println!("  {:>6.2} %  {}", p.probability * 100.0, p.label);
            }
        }
        Err(error) => println!("{file}\n  {error}"),
    }
}
