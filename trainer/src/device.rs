//! Where the tensors are: the processor, or a GPU that libtorch can use.

use crate::error::{Error, Result};
use tch::{Cuda, Device};

/// `auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes the first GPU there is.
pub fn parse(name: &str) -> Result<Device> {
    let gpu = |index: usize| {
        if (index as i64) < Cuda::device_count() {
            // Shapes repeat, so that cuDNN's search for the fastest kernels pays off.
            Cuda::cudnn_set_benchmark(true);
            return Ok(Device::Cuda(index));
        }
        let why = if tch::utils::has_cudart() {
            format!(
                "libtorch sees {} GPUs; see whether `nvidia-smi` lists them, and CUDA_VISIBLE_DEVICES does not hide them",
                Cuda::device_count()
            )
        } else {
            "this libtorch has no CUDA; build with LIBTORCH naming one that has, such as the folder `torch` of an installed PyTorch (trainer/README.md)".into()
        };
        Err(Error::Usage(format!("--device {name}: {why}")))
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(gpu(0).unwrap_or(Device::Cpu)),
        "cuda" => gpu(0),
        _ => match name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(index)) => gpu(index),
            _ => Err(Error::Usage(format!(
                "--device {name}: take auto, cpu, cuda or cuda:N"
            ))),
        },
    }
}

/// Whether a device has instructions for products of bf16 numbers, as far as we can tell.
pub fn multiplies_bf16(device: Device) -> bool {
    match device {
        #[cfg(target_arch = "x86_64")]
        Device::Cpu => is_x86_feature_detected!("avx512bf16"),
        _ => true,
    }
}

/// What a card and a report say about a device.
pub fn describe(device: Device) -> String {
    match device {
        Device::Cuda(index) => {
            let name = gpu_name(index).unwrap_or_else(|| format!("CUDA GPU {index}"));
            // libtorch leaves it to cuDNN; only the environment turns it off from here.
            let exact = std::env::var("NVIDIA_TF32_OVERRIDE").is_ok_and(|v| v == "0");
            format!("{name}{}", if exact { "" } else { ", TF32 convolutions" })
        }
        _ => {
            let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let model = field(&info, "model name").unwrap_or_else(|| "CPU".into());
            format!("{model}, {} threads", tch::get_num_threads())
        }
    }
}

/// The driver's name of a GPU.
fn gpu_name(index: usize) -> Option<String> {
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
    let mut paths: Vec<_> = gpus.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    let info = std::fs::read_to_string(paths.get(index)?.join("information")).ok()?;
    field(&info, "Model")
}

fn field(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines();
    let (_, value) = lines.find_map(|l| l.strip_prefix(key)?.split_once(':'))?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_a_missing_gpu_is_explained() {
        assert_eq!(parse("cpu").unwrap(), Device::Cpu);
        assert!(parse("tpu").unwrap_err().to_string().contains("cuda:N"));
        let many = parse("cuda:999").unwrap_err().to_string();
        assert!(many.contains("LIBTORCH"), "{many}");
        assert!(!describe(Device::Cpu).is_empty());
        assert_eq!(field("a: 1\nModel: \t H100 \n", "Model").unwrap(), "H100");
    }
}
