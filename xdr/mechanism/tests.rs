//! Tests the conversions of mechanism parameters.

mod application;
mod golden;
mod hostile;
mod round_trips;
mod support;
mod table;
mod version3;
