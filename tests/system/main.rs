//! The whole server under load: mixed and hostile requests, hang-ups, several models, shutdown.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod depths;
mod drain;
mod hang_ups;
mod load;
mod mix;
mod soak;
