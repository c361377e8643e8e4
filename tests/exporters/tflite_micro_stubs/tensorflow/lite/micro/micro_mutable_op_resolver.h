// The declarations of tflite-micro that generated code uses; the test adds the methods.
#pragma once
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
namespace tflite {
template <unsigned int count>
class MicroMutableOpResolver {
 public:
  // METHODS
};
}  // namespace tflite
