//! ONNX files to float models.
