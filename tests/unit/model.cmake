baton_test(model_test
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/model_config.cc ${CMAKE_CURRENT_LIST_DIR}/model_weights.cc ${CMAKE_CURRENT_LIST_DIR}/model_tokenizer.cc
          ${CMAKE_CURRENT_LIST_DIR}/model_programs.cc
  LIBS baton_model LABELS unit single)
