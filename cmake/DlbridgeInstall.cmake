# The wheel's layout, component "python": dlbridge/{*.py, *.so}, dlbridge/lib with the shared libraries. Wheels carry no
# symbolic links, so each library is installed under its SONAME alone.
foreach(component IN LISTS DLBRIDGE_COMPONENTS)
  install(TARGETS dlbridge_${component}
    LIBRARY DESTINATION dlbridge/lib COMPONENT python NAMELINK_SKIP)
  install(DIRECTORY $<TARGET_PROPERTY:dlbridge_${component},SOURCE_DIR>/include/dlbridge
    DESTINATION dlbridge/include COMPONENT python)
endforeach()
# dlpack.h comes with its licence, which is ours too (Apache-2.0).
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION dlbridge/include/dlpack COMPONENT python)
install(DIRECTORY ${DLBRIDGE_DLPACK_INCLUDE_DIR}/dlpack DESTINATION dlbridge/include COMPONENT python)
