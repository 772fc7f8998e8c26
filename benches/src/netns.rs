//! Two network namespaces with the rates of a network, made by `deploy/netem/netns.sh` and removed with this value.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::error::{BenchError, failed};
use crate::network::NetworkInfo;

const SCRIPT: &str = include_str!("../../deploy/netem/netns.sh");

/// The namespaces exist while this value does. Their names are fixed: one at a time on a machine.
pub struct Namespaces(());

impl Namespaces {
    /// Makes the namespaces for `network`.
    ///
    /// # Errors
    /// [`BenchError::Process`] with the words of `ip` or `tc`: without root or iproute2 there are none.
    pub fn up(network: &NetworkInfo) -> Result<Self, BenchError> {
        let rate = |r: Option<f64>| format!("{:.0}", r.unwrap_or(10e9));
        let output = script(&["up", &rate(network.up_bit_s), &rate(network.down_bit_s)])
            .map_err(|e| failed("set-up of network namespaces", e))?;
        if output.status.success() {
            return Ok(Self(()));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(
            "set-up of network namespaces (it needs root, iproute2, veth and TBF)",
            said.trim(),
        ))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next set-up.
        let _ = script(&["down"]);
    }
}

fn script(args: &[&str]) -> std::io::Result<Output> {
    let mut shell = Command::new("sh")
        .args(["-s", "--"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = shell.stdin.take() {
        stdin.write_all(SCRIPT.as_bytes())?;
    }
    shell.wait_with_output()
}
