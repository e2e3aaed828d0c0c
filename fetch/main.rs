//! `guix-fetch`: what touches the network, without privileges.

fn main() {}
