//! Composes every room's Config; the only reader of flags and environment.
