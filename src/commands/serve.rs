//! `resnetd serve`: binds both protocols, loads the models behind them, serves until told to stop.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::wanted::{Wanted, wanted};
use crate::config::ServeArgs;
use crate::pool::Pool;
use crate::repository;
use crate::server::{Bound, Server, Stop};
use crate::service::{Classifier, Code};
use crate::telemetry::Metrics;

pub(super) fn run(args: &ServeArgs) -> Result<()> {
    let pool = super::threads::pool(args.engine.threads())?;
    args.engine.options(&pool).check()?;
    let wanted = wanted(&args.models)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.engine.threads().get())
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let ended = runtime.block_on(serve(args, wanted, pool));
    // a model still loading must not hold up the end
    runtime.shutdown_background();
    ended
}

async fn serve(args: &ServeArgs, wanted: Vec<Wanted>, pool: Arc<Pool>) -> Result<()> {
    let metrics = Metrics::new(&Code::ALL.map(Code::as_str));
    let classifier = Arc::new(Classifier::new(args.service(&pool), Arc::clone(&metrics)));
    for model in &wanted {
        classifier.mark_loading(&model.spec.name);
    }
    let server = Server::bind(args.server()).await?;
    let Bound { http, grpc } = server.bound();
    tracing::info!(%http, %grpc, "listening");
    let loading = {
        let classifier = Arc::clone(&classifier);
        let config = args.engine.repository(&pool);
        tokio::task::spawn_blocking(move || load(&classifier, &wanted, &config))
    };
    let serving = server.serve(classifier, metrics, Stop::on_signals()?);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended?,
        loaded = loading => {
            loaded.context("the loading thread ended")??;
            serving.await?
        }
    };
    ensure!(
        ended.cut == 0,
        "{} connections were cut off by --drain-timeout",
        ended.cut
    );
    Ok(())
}

/// Loads every model; the first required one that fails ends it.
fn load(classifier: &Classifier, wanted: &[Wanted], config: &repository::Config) -> Result<()> {
    for model in wanted {
        let name = &model.spec.name;
        let started = Instant::now();
        let loaded = repository::load(&model.spec, config)
            .map_err(anyhow::Error::from)
            .and_then(|loaded| Ok(classifier.load_model(loaded)?));
        match loaded {
            Ok(()) => tracing::info!(
                model = name,
                ms = started.elapsed().as_millis(),
                "model is ready"
            ),
            Err(error) if model.required => {
                return Err(error.context(format!("the model {name} could not be loaded")));
            }
            Err(error) => {
                tracing::error!(model = name, "the model could not be loaded: {error:#}");
                classifier.mark_failed(name, format!("{error:#}"));
            }
        }
    }
    Ok(())
}
