//! The program `pi-convert`.

fn main() {}
