/* A shared library that is one in name only: the right SONAME, a marker, at most a version query.
 * Compiled once per library and version with -DLIBRARY and, where a check may ask for it,
 * -DVERSION_FUNCTION and -DVERSION_ANSWER. SIGNATURE_OUT: the query fills an int, returns 0. */
const char gpufleet_simulated[] = "gpufleet simulated library: " LIBRARY;

#ifdef VERSION_FUNCTION
#ifdef SIGNATURE_OUT
int VERSION_FUNCTION(int *version) { *version = VERSION_ANSWER; return 0; }
#else
unsigned long VERSION_FUNCTION(void) { return VERSION_ANSWER; }
#endif
#endif
