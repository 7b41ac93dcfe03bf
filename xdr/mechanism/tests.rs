//! Tests the conversions of mechanism parameters.

mod golden;
mod hostile;
mod round_trips;
mod support;
mod table;
mod version3;
