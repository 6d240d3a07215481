//! `resnetd serve`: binds both protocols, loads the models behind them, serves until told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::wanted::wanted;
use crate::batching::Remains;
use crate::config::ServeArgs;
use crate::pool::Pool;
use crate::server::{Bound, Server, Stop};
use crate::service::{Classifier, Classify, Code, ModelStatus, Sources, Watch};
use crate::telemetry::Metrics;

/// Longest that the models' engines may take to go.
const LEAVING: Duration = Duration::from_secs(5);

pub(super) fn run(args: &ServeArgs) -> Result<()> {
    let pool = super::threads::pool(args.engine.threads())?;
    args.engine.options(&pool).check()?;
    let sources = wanted(&args.models, args.engine.repository(&pool))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.engine.threads().get())
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let ended = runtime.block_on(serve(args, sources, pool));
    // a model still loading must not hold up the end
    runtime.shutdown_background();
    ended
}

async fn serve(args: &ServeArgs, sources: Sources, pool: Arc<Pool>) -> Result<()> {
    let metrics = Metrics::new(&Code::ALL.map(Code::as_str));
    #[cfg(feature = "cuda")]
    crate::telemetry::watch_gpus(&metrics);
    let classifier = Classifier::new(args.service(&pool), Arc::clone(&metrics));
    let classifier = Arc::new(classifier.with_sources(sources));
    let server = Server::bind(args.server()).await?;
    let Bound { http, grpc } = server.bound();
    tracing::info!(%http, %grpc, "listening");
    let models = Arc::clone(&classifier);
    let loading = {
        let classifier = Arc::clone(&classifier);
        let interval = args.watch();
        tokio::task::spawn_blocking(move || load(&classifier, interval))
    };
    let serving = server.serve(classifier, metrics, Stop::on_signals()?);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended?,
        loaded = loading => {
            let _watch = loaded.context("the loading thread ended")??;
            serving.await?
        }
    };
    leave(models).await;
    ensure!(
        ended.cut == 0,
        "{} connections were cut off by --drain-timeout",
        ended.cut
    );
    Ok(())
}

/// Lets the models' engines go before the process does: a device's libraries must not be at work while it ends.
async fn leave(classifier: Arc<Classifier>) {
    let models = classifier.models();
    let served = models.iter().flat_map(ModelStatus::ready);
    let remains: Vec<Remains> = served.map(|served| served.batcher.remains()).collect();
    drop((models, classifier));
    let gone = async {
        while !remains.iter().all(Remains::have_ended) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(LEAVING, gone).await.is_err() {
        tracing::warn!("a model's engine is still at work; the process ends without it");
    }
}

/// Loads every model, then watches their files if that is asked for.
fn load(classifier: &Classifier, watch: Option<Duration>) -> Result<Option<Watch>> {
    classifier.load_announced()?;
    let watch = watch.map(|interval| classifier.watch(interval));
    watch.transpose().context("cannot start to watch the files")
}
