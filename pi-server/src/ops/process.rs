//! What the process itself uses, from `/proc`, under the names that Prometheus's own clients give it. Empty elsewhere than on
//! Linux.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Gauges of this process, read again by [`Self::refresh`].
#[derive(Debug, Default)]
pub struct Process {
    resident_bytes: Gauge,
    n_open_files: Gauge,
    max_open_files: Gauge,
    n_threads: Gauge,
}

impl Process {
    /// Gauges that are shown in `registry`, whose names have no prefix.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let all = Self::default();
        for (name, help, gauge) in [
            (
                "process_resident_memory_bytes",
                "Memory that is resident",
                &all.resident_bytes,
            ),
            (
                "process_open_fds",
                "Open files and sockets",
                &all.n_open_files,
            ),
            (
                "process_max_fds",
                "Most files and sockets that may be open",
                &all.max_open_files,
            ),
            ("process_threads", "Threads", &all.n_threads),
        ] {
            registry.register(name, help, gauge.clone());
        }
        all
    }

    /// Reads them now.
    pub fn refresh(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let of = |text: &str, key: &str, nth: usize| -> Option<i64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().nth(nth)?.parse().ok()
        };
        if let Some(kib) = of(&status, "VmRSS:", 0) {
            self.resident_bytes.set(kib * 1024);
        }
        if let Some(n) = of(&status, "Threads:", 0) {
            self.n_threads.set(n);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.n_open_files.set(files.count() as i64);
        }
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        if let Some(n) = of(&limits, "Max open files", 0) {
            self.max_open_files.set(n);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_files_and_threads() {
        let process = Process::new(&mut Registry::default());
        process.refresh();
        assert!(process.resident_bytes.get() > 100_000);
        assert!(process.n_open_files.get() > 2);
        assert!(process.max_open_files.get() >= process.n_open_files.get());
        assert!(process.n_threads.get() > 0);
    }
}
