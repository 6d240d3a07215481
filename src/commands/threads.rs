//! `--threads` for candle, which takes the sizes of its pools from the environment alone and reads it once.

use std::env;
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

/// Of candle's pool for element-wise operations, and of rayon's, which its matrix multiplication runs on.
const VARIABLES: [&str; 2] = ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"];

/// Makes candle compute on `threads` threads: where the environment says otherwise, this process starts itself anew
/// with it said right. Changing the environment of a process that may have threads is not safe.
///
/// Call it before anything that takes time.
pub(super) fn bound(threads: NonZeroUsize) -> Result<()> {
    let wanted = threads.to_string();
    if VARIABLES
        .iter()
        .all(|name| env::var(name).as_ref() == Ok(&wanted))
    {
        return Ok(());
    }
    let this = env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(this);
    let mut args = env::args_os();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command
        .args(args)
        .envs(VARIABLES.map(|name| (name, &wanted)));
    // returns only if it fails
    Err(command.exec()).context("cannot start anew with the threads set")
}
