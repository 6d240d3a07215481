//! One file a command, each thin: they compose the rooms and print.

mod bench;
mod classify;
mod compare;
mod evaluate;
mod local;
mod models;
mod serve;
mod threads;
mod timing;
mod wanted;

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::config::{Cli, Command};
use crate::families::{self, Architecture};
use crate::telemetry;

/// Parses the command line and runs one command.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let out = &mut io::stdout().lock();
    let result = telemetry::init_tracing(cli.log.log_format, &cli.log.log)
        .map_err(Into::into)
        .and_then(|()| match &cli.command {
            Command::Serve(args) => serve::run(args),
            Command::Classify(args) => classify::run(args, out),
            Command::Evaluate(args) => evaluate::run(args, out),
            Command::Bench(args) => bench::run(args, out),
            Command::Compare(args) => compare::run(args, out),
            Command::Models(args) => models::run(args, out),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // whoever read the output, head perhaps, has seen enough
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("resnetd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn architecture(name: &str) -> Result<&'static Architecture> {
    families::find(name).with_context(|| {
        format!("there is no architecture {name:?}; `resnetd models` lists those there are")
    })
}
