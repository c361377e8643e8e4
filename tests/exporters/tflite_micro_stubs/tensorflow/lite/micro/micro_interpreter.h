#pragma once
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
struct TfLiteTensor {
  union {
    signed char* int8;
  } data;
};
namespace tflite {
struct Model;
class MicroInterpreter {
 public:
  template <class Resolver>
  MicroInterpreter(const Model*, const Resolver&, unsigned char*, unsigned int) {}
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(int);
  TfLiteTensor* output(int);
};
}  // namespace tflite
