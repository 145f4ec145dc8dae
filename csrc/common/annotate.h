// Functions that the host and the GPU share.
#pragma once

#ifdef __CUDACC__
#define DETCORE_HD __host__ __device__
#else
#define DETCORE_HD
#endif
