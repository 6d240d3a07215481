//! `resnetd models`: what this binary can run.

use std::io::Write;

use anyhow::{Error, Result};

use crate::config::ModelsArgs;
use crate::families;

pub(super) fn run(args: &ModelsArgs, out: &mut dyn Write) -> Result<()> {
    let shown: Vec<_> = match &args.name {
        Some(name) => vec![super::architecture(name)?],
        None => families::all().collect(),
    };
    writeln!(
        out,
        "{:<18} {:<15} {:>5} {:>12} {:>8} {:>9}",
        "name", "family", "depth", "parameters", "GMACs", "input"
    )?;
    for architecture in shown {
        let counts = architecture.default_graph().map_err(Error::msg)?.counts();
        writeln!(
            out,
            "{:<18} {:<15} {:>5} {:>12} {:>8.3} {:>9}",
            architecture.name,
            architecture.family,
            architecture.depth,
            counts.parameters,
            counts.macs as f64 / 1e9,
            format!("{0}x{0}", architecture.input_size),
        )?;
    }
    Ok(())
}
