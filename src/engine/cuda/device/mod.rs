//! What runs on the card beside the libraries.

mod kernels;
mod launch;
