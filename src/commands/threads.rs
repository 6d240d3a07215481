//! `--threads`: the pool for decoding and the fused engine's layers, and candle's own, which take their sizes from the
//! environment alone and read it once.

use std::env;
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::pool::Pool;

/// Of candle's pool for element-wise operations, and of rayon's, which its matrix multiplication runs on.
const VARIABLES: [&str; 2] = ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"];

/// The process's pool of `threads` threads; candle is bounded to as many.
///
/// Call it before anything that takes time.
pub(super) fn pool(threads: NonZeroUsize) -> Result<Arc<Pool>> {
    bound(threads)?;
    let pool = Pool::new(threads).context("cannot start the compute threads")?;
    Ok(Arc::new(pool))
}

/// Makes candle compute on `threads` threads: where the environment says otherwise, this process starts itself anew
/// with it said right. Changing the environment of a process that may have threads is not safe.
fn bound(threads: NonZeroUsize) -> Result<()> {
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
