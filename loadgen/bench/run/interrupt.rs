//! Ctrl-C and its kin: noticed at the next wait, so that children are ended and settings restored
//! on the way out.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Watches for INT, TERM and HUP from now on.
pub fn watch() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let signals = kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>();
            let failed = signals.as_ref().err().map(ToString::to_string);
            // The receiver waits for exactly this.
            let _ = ready.send(failed);
            let Ok(mut signals) = signals else { return };
            let [interrupt, terminate, hangup] = signals.as_mut_slice() else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    });
    match is_ready.recv().context("watching for signals")? {
        None => Ok(()),
        Some(error) => bail!("watching for signals: {error}"),
    }
}

/// An error once a signal came.
pub fn check() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}
