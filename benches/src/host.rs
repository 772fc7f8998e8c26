//! The machine and the build that a number belongs to.

use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine and the build. No names of hosts, users or folders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// CPU model as the kernel names it.
    pub cpu: String,
    /// Logical CPUs that this process may use.
    pub n_cpus: usize,
    /// Instruction-set flags of the CPU.
    pub cpu_flags: Vec<String>,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Commit of the source, with "+" where the working tree differs; "unknown" outside a checkout.
    pub commit: String,
    /// Compiler.
    pub rustc: String,
    /// release or debug.
    pub profile: String,
}

impl Host {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|l| l.starts_with(name));
            line.and_then(|l| l.split_once(':'))
                .map_or(String::new(), |(_, v)| v.trim().to_owned())
        };
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
        let dirty = commit.is_some()
            && said("git", &["status", "--porcelain", "--untracked-files=no"])
                .is_some_and(|s| !s.is_empty());
        Self {
            cpu: field("model name"),
            n_cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_flags: field("flags")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            memory_bytes: kilobytes(&read("/proc/meminfo"), "MemTotal:") * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: format!(
                "{}{}",
                commit.unwrap_or_else(|| "unknown".into()),
                if dirty { "+" } else { "" }
            ),
            rustc: said("rustc", &["--version"]).unwrap_or_else(|| "unknown".into()),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .into(),
        }
    }
}

fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn kilobytes(text: &str, field: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(field));
    line.and_then(|l| l.split_whitespace().nth(1))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Peak resident memory of a running process in bytes; zero when it is gone.
#[must_use]
pub fn peak_memory(pid: u32) -> u64 {
    kilobytes(&read(&format!("/proc/{pid}/status")), "VmHWM:") * 1024
}

/// CPU seconds of a running process, all threads, ended ones included; zero when it is gone.
#[must_use]
pub fn cpu_seconds(pid: u32) -> f64 {
    use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
    let clock = if pid == std::process::id() {
        Ok(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    } else {
        clock_getcpuclockid(nix::unistd::Pid::from_raw(pid as i32))
    };
    clock
        .and_then(clock_gettime)
        .map_or(0.0, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 * 1e-9)
}

/// Load average over the last minute.
#[must_use]
pub fn load_average() -> f64 {
    let text = read("/proc/loadavg");
    text.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0)
}

/// CPU seconds that all processes of the machine have used since it started.
#[must_use]
pub fn machine_cpu_seconds() -> f64 {
    let text = read("/proc/stat");
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal: Linux counts in hundredths of a second.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&i| ticks.get(i));
    busy.sum::<f64>() / 100.0
}

/// Clocks at the start of something, to tell how much of the machine other processes used.
pub struct Watch {
    started: std::time::Instant,
    machine_s: f64,
    own_s: f64,
}

impl Watch {
    /// Starts watching.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: std::time::Instant::now(),
            machine_s: machine_cpu_seconds(),
            own_s: cpu_seconds(std::process::id()),
        }
    }

    /// The others' share of the machine since the start, where children of this process used `children_s`.
    #[must_use]
    pub fn foreign_share(&self, children_s: f64) -> f64 {
        let own = cpu_seconds(std::process::id()) - self.own_s + children_s;
        let busy = machine_cpu_seconds() - self.machine_s;
        let n_cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let capacity = self.started.elapsed().as_secs_f64() * n_cpus as f64;
        ((busy - own) / capacity.max(1e-9)).clamp(0.0, 1.0)
    }
}
