//! `resnetd models`: what this binary can run, and the published weights of one architecture.

use std::io::{self, Write};

use anyhow::{Error, Result};

use crate::config::ModelsArgs;
use crate::families::{self, Architecture};
use crate::repository::Preset;

pub(super) fn run(args: &ModelsArgs, out: &mut dyn Write) -> Result<()> {
    let Some(name) = &args.name else {
        return architectures(families::all(), out);
    };
    let architecture = super::architecture(name)?;
    architectures([architecture], out)?;
    if Preset::of(architecture).next().is_some() {
        writeln!(out)?;
        presets(architecture, out)?;
    }
    Ok(())
}

fn architectures(
    shown: impl IntoIterator<Item = &'static Architecture>,
    out: &mut dyn Write,
) -> Result<()> {
    let row = |architecture: &Architecture| -> Result<_> {
        let counts = architecture.default_graph().map_err(Error::msg)?.counts();
        Ok([
            architecture.name.to_owned(),
            architecture.family.to_owned(),
            architecture.depth.to_string(),
            counts.parameters.to_string(),
            format!("{:.3}", counts.macs as f64 / 1e9),
            format!("{0}x{0}", architecture.input_size),
        ])
    };
    let rows: Vec<_> = shown.into_iter().map(row).collect::<Result<_>>()?;
    let columns = ["name", "family", "depth", "parameters", "GMACs", "input"];
    Ok(table(columns, 2, &rows, out)?)
}

fn presets(architecture: &'static Architecture, out: &mut dyn Write) -> io::Result<()> {
    let row = |preset: &Preset| {
        let preprocessing = &preset.preprocessing;
        [
            preset.source.clone(),
            preset.weights.clone(),
            preprocessing.interpolation.to_string(),
            preprocessing.resize.to_string(),
            preprocessing.crop.to_string(),
            format!("{:.3}", preset.top1),
            format!("{:.3}", preset.top5),
        ]
    };
    let rows: Vec<_> = Preset::of(architecture).map(row).collect();
    let columns = [
        "source",
        "weights",
        "interpolation",
        "resize",
        "crop",
        "top-1",
        "top-5",
    ];
    table(columns, 3, &rows, out)
}

/// Columns as wide as their widest cell, the first `left` aligned left, the others right.
fn table<const N: usize>(
    header: [&str; N],
    left: usize,
    rows: &[[String; N]],
    out: &mut dyn Write,
) -> io::Result<()> {
    let header = header.map(str::to_owned);
    let lines = || std::iter::once(&header).chain(rows);
    let width = |column: usize| lines().map(|line| line[column].len()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for line in lines() {
        let mut gap = "";
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            match column < left {
                true => write!(out, "{gap}{cell:<width$}")?,
                false => write!(out, "{gap}{cell:>width$}")?,
            }
            gap = "  ";
        }
        writeln!(out)?;
    }
    Ok(())
}
