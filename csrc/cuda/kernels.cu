// Every kernel, compiled by NVRTC on the machine that runs it. A name expression says which:
// fastsched::cuda::update<17> (the number is a variant's code, see tables.hpp), norm, join, control<true>,
// control<false>, probe. What is not named is parsed and dropped.
#include "cuda/control.hpp"
#include "cuda/norm.hpp"
#include "cuda/probe.hpp"
#include "cuda/update.hpp"
