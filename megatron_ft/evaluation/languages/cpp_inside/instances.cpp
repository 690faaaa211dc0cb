// The code that instances.hpp says is elsewhere.
#define MEGATRON_FT_INSTANCE template
#include "instances.hpp"
