// What every half begins with, precompiled: the headers that the public harness puts before a program, and the wire.
#include <stdlib.h>
#include <algorithm>
#include <cmath>
#include <math.h>
#include <numeric>
#include <stdio.h>
#include <vector>
#include <set>
#include <map>
#include <queue>
#include <stack>
#include <list>
#include <deque>
#include <boost/any.hpp>
#include <string>
#include <climits>
#include <cstring>
#include <iostream>
#include <sstream>
#include <fstream>
#include "serve.hpp"
#include "call.hpp"
#include "instances.hpp"
using namespace std;
